//! The headers of answers about blobs.

use http::{HeaderMap, HeaderValue, header};

use super::conditions;
use crate::{
    http::headers::{self, Headers},
    model::{Version, range::Span},
    storage::BlobInfo,
};

/// The version a key holds, as ours and as entity tag.
pub fn write_version(version: Version, to: &mut impl Headers) {
    to.set(headers::VERSION, version);
    to.set(header::ETAG, conditions::EntityTag(version));
}

/// What a reader may keep to ask again: the version and its date.
fn write_validators(version: Version, to: &mut impl Headers) {
    write_version(version, to);
    to.set(header::LAST_MODIFIED, httpdate::HttpDate::from(conditions::modified(version)));
}

/// The head of a whole blob (200).
pub fn write_whole(info: &BlobInfo, to: &mut impl Headers) {
    write_common(info, info.length, to);
    to.set(headers::CHECKSUM, info.checksum);
}

/// The head of a part of a blob (206). It has no checksum: clients would check the part against it.
pub fn write_part(info: &BlobInfo, span: Span, to: &mut HeaderMap) {
    write_common(info, span.end - span.start, to);
    let (first, last, length) = (span.start, span.end - 1, info.length);
    to.set(header::CONTENT_RANGE, format_args!("bytes {first}-{last}/{length}"));
}

fn write_common(info: &BlobInfo, body_bytes: u64, to: &mut impl Headers) {
    info.meta.headers().for_each(|(name, value)| to.add(name, value));
    write_validators(info.version, to);
    to.set(header::CONTENT_LENGTH, body_bytes);
    to.add(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
}

/// The head of "you have it already" (304): what could renew the reader's copy, and nothing about a body.
pub fn write_not_modified(info: &BlobInfo, to: &mut HeaderMap) {
    write_validators(info.version, to);
    let caching = info.meta.pairs().iter().find(|(name, _)| name == header::CACHE_CONTROL.as_str());
    if let Some((_, value)) = caching {
        to.set(header::CACHE_CONTROL, value);
    }
}
