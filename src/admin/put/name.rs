//! A file's key: its path below the given folder, percent-encoded, after the prefix. Any name that a file can have
//! gives a key, and two files never give the same one. Pure.

use std::{fmt::Write as _, os::unix::ffi::OsStrExt, path::Path, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::model::{Key, key::KeyError};

/// Starts the key of a path that cannot be written as a key. A path that starts so itself has it encoded.
const HASHED: u8 = b'~';

/// What stands before every key: `photos/2026/`, encoded already; may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefix(String);

impl FromStr for Prefix {
    type Err = KeyError;

    /// Reads a prefix as people write it. It is a folder: a slash is put after it, slashes before it are left out.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let folder = text.trim_matches('/');
        let prefix = if folder.is_empty() { String::new() } else { encode(folder.as_bytes()) + "/" };
        // The longest name that any file gives must fit behind it.
        hashed(&prefix, b"").parse::<Key>()?;
        Ok(Self(prefix))
    }
}

impl Prefix {
    /// The key of the file with this path below the given folder.
    ///
    /// A path that no key can say (a control byte in it, over 1,024 bytes once encoded, or a name that servers answer
    /// themselves) is stored as `~` and the SHA-256 of the path's bytes in hexadecimal.
    pub(super) fn key_of(&self, path: &Path) -> Key {
        let bytes = path.as_os_str().as_bytes();
        let plain = self.0.clone() + &encode(bytes);
        plain.parse().unwrap_or_else(|_| {
            let hashed = hashed(&self.0, bytes);
            hashed.parse().expect("the prefix was parsed with such a name behind it")
        })
    }
}

fn hashed(prefix: &str, path: &[u8]) -> String {
    let mut key = format!("{prefix}{}", HASHED as char);
    for byte in Sha256::digest(path) {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}

/// Encodes every byte that RFC 3986 does not allow in a path as it is (`pchar` and `/`): this is what browsers and
/// curl send, so a key taken from here reaches the servers unchanged.
fn encode(path: &[u8]) -> String {
    let mut encoded = String::with_capacity(path.len());
    for (index, &byte) in path.iter().enumerate() {
        let kept = byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte);
        if kept && !(index == 0 && byte == HASHED) {
            encoded.push(byte as char);
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ffi::OsStr, path::PathBuf};

    use proptest::prelude::*;

    use super::*;

    fn key(prefix: &str, path: &[u8]) -> String {
        prefix.parse::<Prefix>().unwrap().key_of(Path::new(OsStr::from_bytes(path))).to_string()
    }

    #[test]
    fn names_of_every_kind() {
        for (path, expected) in [
            (&b"a/b.jpg"[..], "a/b.jpg"),
            (b"with space.txt", "with%20space.txt"),
            (b"a#b?c%d", "a%23b%3Fc%25d"),
            (b"100%25", "100%2525"),
            (b"a:b@c+d,e;f=g&h", "a:b@c+d,e;f=g&h"),
            ("фото".as_bytes(), "%D1%84%D0%BE%D1%82%D0%BE"),
            (b"\xff\xfe", "%FF%FE"),
            (b"\"<>\\^`{|}[]", "%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
            (b"...", "..."),
            (b"~home", "%7Ehome"),
            (b"a/~", "a/~"),
        ] {
            assert_eq!(key("", path), expected);
        }
    }

    #[test]
    fn paths_that_no_key_can_say_are_hashed() {
        let long = [b'x'; 1025];
        for path in [&b"line\nbreak"[..], b"\x7f", b"stats", b"-/live", b"-", &long] {
            let key = key("", path);
            assert!(key.starts_with('~') && key.len() == 65, "{key}");
        }
        assert_eq!(key("", &[b'x'; 1024]).len(), 1024);
        assert_eq!(key("p", b"stats"), "p/stats");
        assert!(key("p", b"a\tb").starts_with("p/~"));
    }

    #[test]
    fn prefixes() {
        for (prefix, expected) in
            [("", "k"), ("/", "k"), ("a", "a/k"), ("/a/b/", "a/b/k"), ("my photos", "my%20photos/k")]
        {
            assert_eq!(key(prefix, b"k"), expected);
        }
        for prefix in ["..", "a/../b", "-", "a\nb", &"x".repeat(1000)] {
            assert!(prefix.parse::<Prefix>().is_err(), "{prefix:?}");
        }
    }

    proptest! {
        #[test]
        fn no_two_paths_share_a_key(names in proptest::collection::hash_set(
            proptest::collection::vec(prop_oneof![Just(b'~'), Just(b'%'), Just(b'\n'), Just(b'2'), 1u8..=255], 1..12), 2..20,
        )) {
            // File names hold no slash and are neither `.` nor `..`.
            let names: Vec<Vec<u8>> = names.into_iter().filter(|name| !name.contains(&b'/') && name != b"." && name != b"..").collect();
            let keys: HashSet<Key> = names
                .iter()
                .map(|name| Prefix::default().key_of(&PathBuf::from(OsStr::from_bytes(name))))
                .collect();
            prop_assert_eq!(keys.len(), names.len());
        }
    }
}
