//! The id that travels with an upload: coordinator -> node -> task -> replicator. A client may bring its own.

use std::fmt;

use http::HeaderMap;

use super::headers::{REQUEST_ID, set};

/// Longer ids are replaced: they stand in every log line and task.
const MAX_BYTES: usize = 64;

/// 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The id a request came with, or a new one where it has none that can be used.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(Self::fresh)
    }

    /// An id from elsewhere, for instance from a task.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=MAX_BYTES).contains(&text.len());
        let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        (fits && plain).then(|| Self(text.to_owned()))
    }

    /// A new id: 16 hexadecimal digits.
    pub fn fresh() -> Self {
        Self(format!("{:016x}", fastrand::u64(..)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts the id on a request or an answer.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        set(headers, REQUEST_ID, &self.0);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn takes_good_ids_and_replaces_bad_ones() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(RequestId::of(&headers).as_str(), "abc-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b\"c"));
        assert_eq!(RequestId::of(&headers).as_str().len(), 16);
        headers.insert(REQUEST_ID, HeaderValue::try_from("x".repeat(65)).unwrap());
        assert_eq!(RequestId::of(&headers).as_str().len(), 16);
    }
}
