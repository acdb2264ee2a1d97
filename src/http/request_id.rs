//! The id that travels with an upload: coordinator -> node -> task -> replicator. A client may bring its own.

use std::fmt;

use http::{HeaderMap, HeaderValue};

use super::headers::{REQUEST_ID, value_of};

/// Longer ids are replaced: they stand in every log line and task.
const MAX_BYTES: usize = 64;

/// 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The id a request came with, or a new one where it has none that can be used.
    pub fn of(headers: &HeaderMap) -> Self {
        // Copied: what hyper gives holds on to the buffer that the whole request was read into.
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(Self::fresh)
    }

    /// An id from elsewhere, for instance from a task.
    pub fn parse(text: &str) -> Option<Self> {
        is_id(text.as_bytes()).then(|| value_of(text).map(Self))?
    }

    /// A new id: 16 hexadecimal digits.
    pub fn fresh() -> Self {
        let random = fastrand::u64(..);
        let digits: [u8; 16] =
            std::array::from_fn(|at| b"0123456789abcdef"[(random >> (60 - 4 * at)) as usize & 15]);
        Self(HeaderValue::from_bytes(&digits).expect("digits are a header's value"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("all of an id is visible ASCII")
    }

    /// Puts the id on a request or an answer.
    pub fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.0.clone());
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_id(text: &[u8]) -> bool {
    let is_plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
    (1..=MAX_BYTES).contains(&text.len()) && text.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
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
