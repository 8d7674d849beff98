//! The difference between two documents as a JSON patch (RFC 6902).

use serde_json::{Map, Value, json};

/// Returns the operations that turn `before` into `after`; none where they are equal.
///
/// Lists are replaced whole where they differ, for what stands in them has no name that a patch could use.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(&mut String::new(), before, after, &mut operations);
    operations
}

fn compare(path: &mut String, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => compare_objects(path, before, after, operations),
        _ if before == after => {}
        _ => operations.push(json!({ "op": "replace", "path": path, "value": after })),
    }
}

fn compare_objects(
    path: &mut String,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    operations: &mut Vec<Value>,
) {
    let mut at = |name: &str, then: &mut dyn FnMut(&mut String)| {
        let length = path.len();
        path.push('/');
        path.push_str(&name.replace('~', "~0").replace('/', "~1"));
        then(path);
        path.truncate(length);
    };
    for (name, old) in before {
        at(name, &mut |path| match after.get(name) {
            Some(new) => compare(path, old, new, operations),
            None => operations.push(json!({ "op": "remove", "path": path })),
        });
    }
    for (name, new) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        at(name, &mut |path| operations.push(json!({ "op": "add", "path": path, "value": new })));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Carries a patch out, by the words of RFC 6902.
    fn apply(document: &mut Value, operations: &[Value]) {
        for operation in operations {
            let path = operation["path"].as_str().unwrap();
            let Some((parent, last)) = path.rsplit_once('/') else {
                assert_eq!(operation["op"], "replace");
                *document = operation["value"].clone();
                continue;
            };
            let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            let last = last.replace("~1", "/").replace("~0", "~");
            match operation["op"].as_str().unwrap() {
                "remove" => assert!(parent.remove(&last).is_some()),
                "add" => assert!(parent.insert(last, operation["value"].clone()).is_none()),
                "replace" => assert!(parent.insert(last, operation["value"].clone()).is_some()),
                other => panic!("{other}"),
            }
        }
    }

    fn document() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0u8..3).prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                proptest::collection::btree_map("[ab~/]{1,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_difference_leads_from_one_document_to_the_other(before in document(), after in document()) {
            let mut changed = before.clone();
            apply(&mut changed, &difference(&before, &after));
            prop_assert_eq!(&changed, &after);
            prop_assert!(difference(&after, &after).is_empty());
        }
    }
}
