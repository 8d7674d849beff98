//! Users of this machine, as its own list names them.

/// Where a machine lists its users.
const LIST: &str = "/etc/passwd";

/// Returns the number of a user who is named, or whose number it is.
///
/// # Errors
///
/// What to write instead.
pub(crate) fn number_of(user: &str) -> Result<u32, String> {
    let unreadable = |error| format!("cannot read {LIST}, where `{}` would stand: {error}", wire::harmless(user));
    match user.parse() {
        Ok(number) => Ok(number),
        Err(_) => find(&std::fs::read_to_string(LIST).map_err(unreadable)?, user),
    }
}

fn find(list: &str, user: &str) -> Result<u32, String> {
    let number = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    let missing = || format!("`{}` is no user in {LIST}: make it one, or use its number", wire::harmless(user));
    list.lines().find_map(number).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_or_numbered() {
        let list = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\nbroken:x\n\n";
        assert_eq!((find(list, "root"), find(list, "web")), (Ok(0), Ok(33)));
        for nobody in ["we", "broken", "", "x"] {
            assert!(find(list, nobody).unwrap_err().contains("use its number"), "{nobody}");
        }
        assert_eq!((number_of("root"), number_of("4711")), (Ok(0), Ok(4711)));
    }
}
