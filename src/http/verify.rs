//! What a client says its body must be (`x-amz-checksum-crc64nvme`, `Content-MD5`, `Digest: sha-256=`), checked
//! while the body streams. Nothing is computed that was not asked for, but the CRC-64, which is there anyway. Pure: no I/O.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, StatusCode};
use md5::{Digest as _, Md5};
use sha2::Sha256;

use super::headers::{CHECKSUM, CONTENT_MD5, DIGEST};
use crate::model::Checksum;

/// The digests a request announces for its body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    crc64: Option<Checksum>,
    md5: Option<[u8; 16]>,
    sha256: Option<[u8; 32]>,
}

/// Why a body was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The header cannot be read; found before a byte of the body is taken.
    #[error("the value of {header} is malformed: {want} is expected, once")]
    Malformed {
        /// Which header.
        header: HeaderName,
        /// What belongs there.
        want: &'static str,
    },
    /// The body is another one than the client meant to send.
    #[error("the body does not match {header}: {announced} was announced, the bytes give {computed}")]
    Mismatch {
        /// Which header.
        header: HeaderName,
        /// As sent, base64.
        announced: String,
        /// Of what came, base64.
        computed: String,
    },
}

impl VerifyError {
    /// 400 or 422.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Malformed { .. } => StatusCode::BAD_REQUEST,
            Self::Mismatch { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

impl Expected {
    /// Reads the digests out of a request's headers. Of `Digest` only `sha-256` is looked at: the RFC (3230) asks to
    /// ignore algorithms one does not know.
    pub fn from_headers(headers: &HeaderMap) -> Result<Self, VerifyError> {
        let crc64 = one_digest(headers, CHECKSUM, "base64 of 8 bytes")?;
        Ok(Self {
            crc64: crc64.map(|bytes| Checksum(u64::from_be_bytes(bytes))),
            md5: one_digest(headers, CONTENT_MD5, "base64 of 16 bytes")?,
            sha256: sha256_of(headers)?,
        })
    }

    /// Starts to check a body.
    pub fn verifier(self) -> Verifier {
        Verifier {
            md5: self.md5.map(|_| Box::new(Md5::new())),
            sha256: self.sha256.map(|_| Box::new(Sha256::new())),
            expected: self,
        }
    }
}

/// A header that holds one digest, or is absent.
fn one_digest<const N: usize>(
    headers: &HeaderMap,
    header: HeaderName,
    want: &'static str,
) -> Result<Option<[u8; N]>, VerifyError> {
    let mut values = headers.get_all(&header).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digest = value.to_str().ok().and_then(decode);
    match digest {
        Some(digest) if values.next().is_none() => Ok(Some(digest)),
        _ => Err(VerifyError::Malformed { header, want }),
    }
}

/// The `sha-256` of all `Digest` headers, which are lists: `md5=...,SHA-256=...`.
fn sha256_of(headers: &HeaderMap) -> Result<Option<[u8; 32]>, VerifyError> {
    let malformed = || VerifyError::Malformed { header: DIGEST, want: "sha-256=<base64 of 32 bytes>" };
    let mut found = None;
    for value in headers.get_all(DIGEST) {
        for entry in value.to_str().map_err(|_| malformed())?.split(',') {
            let (algorithm, digest) = entry.trim().split_once('=').ok_or_else(malformed)?;
            if !algorithm.eq_ignore_ascii_case("sha-256") {
                continue;
            }
            let digest = decode(digest).ok_or_else(malformed)?;
            if found.replace(digest).is_some() {
                return Err(malformed());
            }
        }
    }
    Ok(found)
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text.trim()).ok()?.try_into().ok()
}

/// Computes what was announced while the body streams, beside the CRC-64, which whoever takes a body has anyway. In boxes: few
/// uploads announce such digests, and very many may be open.
pub struct Verifier {
    expected: Expected,
    md5: Option<Box<Md5>>,
    sha256: Option<Box<Sha256>>,
}

impl Verifier {
    /// Takes the next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Compares, once the body has ended; `checksum` is that of all its bytes.
    pub fn finish(self, checksum: Checksum) -> Result<(), VerifyError> {
        let crc64 = |sum: Checksum| sum.0.to_be_bytes();
        compare(CHECKSUM, self.expected.crc64.map(crc64), Some(crc64(checksum)))?;
        compare(CONTENT_MD5, self.expected.md5, self.md5.map(|md5| md5.finalize().into()))?;
        compare(DIGEST, self.expected.sha256, self.sha256.map(|sha256| sha256.finalize().into()))
    }
}

fn compare<const N: usize>(
    header: HeaderName,
    announced: Option<[u8; N]>,
    computed: Option<[u8; N]>,
) -> Result<(), VerifyError> {
    match (announced, computed) {
        (Some(announced), Some(computed)) if announced != computed => Err(VerifyError::Mismatch {
            header,
            announced: STANDARD.encode(announced),
            computed: STANDARD.encode(computed),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    // Of "hello", by `openssl dgst -binary | base64`.
    const MD5: &str = "XUFAKrxLKna5cZ2REBfFkg==";
    const SHA256: &str = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn check(pairs: &[(HeaderName, &str)], parts: &[&str]) -> Result<(), VerifyError> {
        let mut verifier = Expected::from_headers(&headers(pairs))?.verifier();
        for part in parts {
            verifier.update(part.as_bytes());
        }
        verifier.finish(Checksum::of(parts.concat().as_bytes()))
    }

    #[test]
    fn accepts_what_matches() {
        let crc64 = Checksum::of(b"hello").to_string();
        let sha256 = format!("SHA-256={SHA256}");
        let listed = format!("md5={MD5}, sha-256={SHA256}");
        assert_eq!(check(&[], &["anything"]), Ok(()));
        assert_eq!(check(&[(CHECKSUM, &crc64)], &["hel", "lo"]), Ok(()));
        assert_eq!(check(&[(CONTENT_MD5, MD5)], &["", "hello"]), Ok(()));
        assert_eq!(check(&[(DIGEST, &sha256)], &["hello"]), Ok(()));
        assert_eq!(check(&[(DIGEST, &listed), (CHECKSUM, &crc64), (CONTENT_MD5, MD5)], &["hello"]), Ok(()));
        assert_eq!(check(&[(DIGEST, "crc32c=abcd")], &["unknown algorithms are ignored"]), Ok(()));
        assert_eq!(check(&[(CHECKSUM, "AAAAAAAAAAA=")], &[]), Ok(()), "of an empty body");
    }

    #[test]
    fn refuses_what_does_not_match() {
        let crc64 = Checksum::of(b"hello").to_string();
        let sha256 = format!("sha-256={SHA256}");
        for (header, value) in [(CHECKSUM, crc64.as_str()), (CONTENT_MD5, MD5), (DIGEST, sha256.as_str())] {
            let refused = check(&[(header.clone(), value)], &["hellO"]).unwrap_err();
            assert_eq!(refused.status(), 422, "{refused}");
            assert!(refused.to_string().contains(header.as_str()), "{refused}");
        }
    }

    #[test]
    fn refuses_what_cannot_be_read() {
        for (header, value) in [
            (CHECKSUM, ""),
            (CHECKSUM, "AAAA"),
            (CHECKSUM, "not base64!!"),
            (CONTENT_MD5, "AAAAAAAAAAA="),
            (CONTENT_MD5, MD5.trim_end_matches('=')),
            (DIGEST, "sha-256"),
            (DIGEST, "sha-256=AAAA"),
            (DIGEST, ""),
        ] {
            let refused = check(&[(header.clone(), value)], &[]).unwrap_err();
            assert_eq!(refused.status(), 400, "{header}: {value:?}");
        }
        assert_eq!(check(&[(CONTENT_MD5, MD5), (CONTENT_MD5, MD5)], &["hello"]).unwrap_err().status(), 400);
        let twice = format!("sha-256={SHA256},sha-256={SHA256}");
        assert_eq!(check(&[(DIGEST, &twice)], &["hello"]).unwrap_err().status(), 400);
    }
}
