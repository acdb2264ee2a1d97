//! Values that stand as text in JSON.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::de::{Error, Visitor};

/// Has these types written as they are displayed and read as they are parsed, without a `String` on the way: a task has six of
/// them, and a page of a listing thousands.
macro_rules! stands_as_text {
    ($($name:ty),+) => {$(
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str($crate::model::text::Parse::default())
            }
        }
    )+};
}

pub(super) use stands_as_text;

/// Reads a text that is a `T`.
pub(super) struct Parse<T>(PhantomData<T>);

impl<T> Default for Parse<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Parse<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::model::{Checksum, Key, ServerId, Version};

    #[test]
    fn each_is_a_text_and_comes_back_from_one() {
        let key: Key = "\"quoted\"/фото.jpg".replace('"', "%22").parse().unwrap();
        let all = (key, "1".parse::<ServerId>().unwrap(), Version::from_parts(1, 2), Checksum(7));
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(json, r#"["%22quoted%22/фото.jpg","1","00000000010000000000000002","AAAAAAAAAAc="]"#);
        assert_eq!(serde_json::from_str::<(Key, ServerId, Version, Checksum)>(&json).unwrap(), all);
        let escaped = r#""%22quoted%22\/\u0444ото.jpg""#;
        assert_eq!(serde_json::from_str::<Key>(escaped).unwrap(), all.0, "however it is escaped");
        let value = serde_json::to_value(&all).unwrap();
        assert_eq!(serde_json::from_value::<(Key, ServerId, Version, Checksum)>(value).unwrap(), all);
        let map: BTreeMap<ServerId, u8> = serde_json::from_str(r#"{"1":2}"#).unwrap();
        assert_eq!(serde_json::to_string(&map).unwrap(), r#"{"1":2}"#);
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        let error = |json: &str| serde_json::from_str::<Key>(json).unwrap_err().to_string();
        assert!(error(r#""a/../b""#).contains(&"a/../b".parse::<Key>().unwrap_err().to_string()));
        assert!(error("7").contains("expected a string"));
    }
}
