//! What travels with a blob besides its bytes: its content type and the client's own metadata headers.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::{Deserialize, Serialize};

/// Names and values together, in bytes. S3 allows 2 KiB of user metadata; the rest is for the content type.
pub const MAX_META_BYTES: usize = 4096;

const PREFIXES: [&str; 2] = ["x-amz-meta-", "x-backpack-meta-"];

/// Headers that are stored with a blob and given back on every read, in the order they were sent:
/// `content-type`, `content-encoding`, `content-disposition`, `cache-control`, `x-amz-meta-*`, `x-backpack-meta-*`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta(Vec<(String, String)>);

/// Why headers cannot be stored with a blob. Each is a client's mistake (400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// More than [`MAX_META_BYTES`].
    #[error("the metadata headers have {0} bytes, at most {MAX_META_BYTES} are kept")]
    TooLong(usize),
    /// Values are kept as text.
    #[error("the value of {0} is not visible ASCII")]
    NotText(String),
}

fn is_kept(name: &HeaderName) -> bool {
    *name == header::CONTENT_TYPE
        || *name == header::CONTENT_ENCODING
        || *name == header::CONTENT_DISPOSITION
        || *name == header::CACHE_CONTROL
        || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

impl Meta {
    /// Picks the headers to keep out of a request's or a response's.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, MetaError> {
        let mut kept = Vec::new();
        for (name, value) in headers.iter().filter(|(name, _)| is_kept(name)) {
            let text = value.to_str().map_err(|_| MetaError::NotText(name.to_string()))?;
            kept.push((name.as_str().to_owned(), text.to_owned()));
        }
        let bytes: usize = kept.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_META_BYTES { Err(MetaError::TooLong(bytes)) } else { Ok(Self(kept)) }
    }

    /// The pairs, names in lower case.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The metadata with these pairs, as a record on disk gives them.
    pub fn from_pairs(pairs: Vec<(String, String)>) -> Self {
        Self(pairs)
    }

    /// The pairs as headers of a response or a request; a pair that is none is left out.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let header = |name: &String, value: &String| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        self.0.iter().filter_map(move |(name, value)| header(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_is_stored_and_nothing_else() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("image/jpeg"));
        headers.insert("x-amz-meta-owner", HeaderValue::from_static("ann"));
        headers.insert("x-backpack-meta-a", HeaderValue::from_static("1"));
        headers.insert("authorization", HeaderValue::from_static("secret"));
        let meta = Meta::from_headers(&headers).unwrap();
        assert_eq!(meta.pairs().len(), 3);
        let mut back = HeaderMap::new();
        back.extend(meta.headers());
        assert_eq!(back.get("x-amz-meta-owner").unwrap(), "ann");
        assert!(back.get("authorization").is_none());
    }

    #[test]
    fn refuses_too_much_and_what_is_no_text() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-a", HeaderValue::try_from("x".repeat(5000)).unwrap());
        assert!(matches!(Meta::from_headers(&headers), Err(MetaError::TooLong(_))));
        headers.insert("x-amz-meta-a", HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(matches!(Meta::from_headers(&headers), Err(MetaError::NotText(_))));
    }
}
