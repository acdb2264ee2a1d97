//! The headers of answers about blobs.

use http::{HeaderMap, HeaderValue, header};

use super::conditions;
use crate::{
    http::headers::{self, set},
    model::{Version, range::Span},
    storage::BlobInfo,
};

/// Headers of an answer besides metadata, so that their map need not grow.
const USUAL: usize = 10;

/// The version a key holds, as ours and as entity tag.
pub fn write_version(version: Version, to: &mut HeaderMap) {
    set(to, headers::VERSION, version);
    set(to, header::ETAG, conditions::EntityTag(version));
}

/// What a reader may keep to ask again: the version and its date.
fn write_validators(version: Version, to: &mut HeaderMap) {
    write_version(version, to);
    set(to, header::LAST_MODIFIED, httpdate::HttpDate::from(conditions::modified(version)));
}

/// The head of a whole blob (200).
pub fn write_whole(info: &BlobInfo, to: &mut HeaderMap) {
    write_common(info, info.length, to);
    set(to, headers::CHECKSUM, info.checksum);
}

/// The head of a part of a blob (206). It has no checksum: clients would check the part against it.
pub fn write_part(info: &BlobInfo, span: Span, to: &mut HeaderMap) {
    write_common(info, span.end - span.start, to);
    let (first, last, length) = (span.start, span.end - 1, info.length);
    set(to, header::CONTENT_RANGE, format_args!("bytes {first}-{last}/{length}"));
}

fn write_common(info: &BlobInfo, body_bytes: u64, to: &mut HeaderMap) {
    to.reserve(info.meta.pairs().len() + USUAL);
    info.meta.write_to(to);
    write_validators(info.version, to);
    to.insert(header::CONTENT_LENGTH, HeaderValue::from(body_bytes));
    to.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// The head of "you have it already" (304): what could renew the reader's copy, and nothing about a body.
pub fn write_not_modified(info: &BlobInfo, to: &mut HeaderMap) {
    write_validators(info.version, to);
    let caching = info.meta.pairs().iter().find(|(name, _)| name == header::CACHE_CONTROL.as_str());
    if let Some((_, value)) = caching {
        set(to, header::CACHE_CONTROL, value);
    }
}
