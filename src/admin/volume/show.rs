//! Keys and metadata, which may be any bytes, as they are printed.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::model::Meta;

/// A key for people: nothing in it breaks the line or is obeyed by a terminal.
pub fn key(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        // A gap has none.
        Ok("") => "-".to_owned(),
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// A key for programs: as `key`, or as `key_base64` if it is no text.
pub fn key_to(object: &mut Map<String, Value>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok("") => None,
        Ok(text) => object.insert("key".into(), json!(text)),
        Err(_) => object.insert("key_base64".into(), json!(BASE64_STANDARD.encode(bytes))),
    };
}

/// Metadata, for programs and for people; null where it makes no sense.
pub fn meta(meta: Option<Meta>) -> Value {
    let Some(meta) = meta else { return Value::Null };
    Value::Object(meta.pairs().iter().map(|(name, value)| (name.clone(), json!(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_make_one_harmless_line() {
        assert_eq!(key("a b/фото?x=%20".as_bytes()), "a b/фото?x=%20");
        assert_eq!(key(b"new\nline\x1b[2J"), "new\\nline\\u{1b}[2J");
        assert_eq!(key(b"\xff\x00\n"), "\\xff\\x00\\n");
        let all: Vec<u8> = (0..=255).collect();
        assert!(key(&all).bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }

    #[test]
    fn no_byte_of_a_key_is_lost_to_programs() {
        let object = |bytes: &[u8]| {
            let mut object = Map::new();
            key_to(&mut object, bytes);
            Value::Object(object)
        };
        assert_eq!(object(b"a\x1b"), json!({"key": "a\x1b"}));
        assert_eq!(object(b"\xff\x00"), json!({"key_base64": "/wA="}));
    }
}
