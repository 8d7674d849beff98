//! Users of this machine, as its own list names them.

/// Where a machine lists its users.
pub(crate) const LIST: &str = "/etc/passwd";

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

/// Returns the numbers of a user who is named, and of its group; none where nobody is.
///
/// # Errors
///
/// Why the list cannot be read.
pub(crate) fn numbers_of(user: &str) -> std::io::Result<Option<(u32, u32)>> {
    Ok(listed(&std::fs::read_to_string(LIST)?, user))
}

fn find(list: &str, user: &str) -> Result<u32, String> {
    let missing = || format!("`{}` is no user in {LIST}: make it one, or use its number", wire::harmless(user));
    listed(list, user).map(|(user, _)| user).ok_or_else(missing)
}

fn listed(list: &str, user: &str) -> Option<(u32, u32)> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_named_or_numbered() {
        let list = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/false\nbroken:x\n\n";
        assert_eq!((find(list, "root"), find(list, "web")), (Ok(0), Ok(33)));
        assert_eq!(listed(list, "web"), Some((33, 33)));
        for nobody in ["we", "broken", "", "x"] {
            assert!(find(list, nobody).unwrap_err().contains("use its number"), "{nobody}");
        }
        assert_eq!((number_of("root"), number_of("4711")), (Ok(0), Ok(4711)));
    }
}
