//! The conditions of a request (RFC 9110, sections 13 and 14): `If-Match`, `If-None-Match`, `If-Modified-Since`,
//! `If-Unmodified-Since`, `Range`, `If-Range`. Pure: what a key holds goes in, what to do comes out.
//!
//! A blob's entity tag is its version in quotes, always a strong one; its modification date is its version's time in
//! whole seconds.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE},
};

use crate::model::{ByteRange, Version, range::Span};

/// What the conditions of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They hold, or there are none.
    Proceed,
    /// The reader has this blob already: 304.
    NotModified,
    /// They do not hold: 412.
    Failed,
}

/// Which bytes of a blob to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them: 200.
    Whole,
    /// Some: 206.
    Span(Span),
    /// None of those that were asked for exist: 416.
    Unsatisfiable,
}

/// What a request does with the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// GET and HEAD.
    Read,
    /// PUT and DELETE.
    Write,
}

/// Whether [`check`] depends on what the key holds.
pub fn any(headers: &HeaderMap) -> bool {
    [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE].iter().any(|name| headers.contains_key(name))
}

/// Weighs the conditions in the order of RFC 9110, section 13.2.2. `held` is the blob's version; `None` for a key
/// that holds nothing or a tombstone.
pub fn check(headers: &HeaderMap, intent: Intent, held: Option<Version>) -> Verdict {
    if headers.contains_key(IF_MATCH) {
        if !names(headers, IF_MATCH, held, Strength::Strong) {
            return Verdict::Failed;
        }
    } else if let (Some(date), Some(held)) = (date(headers, IF_UNMODIFIED_SINCE), held)
        && modified(held) > date
    {
        return Verdict::Failed;
    }
    let unchanged = if headers.contains_key(IF_NONE_MATCH) {
        names(headers, IF_NONE_MATCH, held, Strength::Weak)
    } else if let (Some(date), Some(held), Intent::Read) = (date(headers, IF_MODIFIED_SINCE), held, intent) {
        modified(held) <= date
    } else {
        false
    };
    match (unchanged, intent) {
        (false, _) => Verdict::Proceed,
        (true, Intent::Read) => Verdict::NotModified,
        (true, Intent::Write) => Verdict::Failed,
    }
}

/// What a GET sends of a blob of that version and length. A `Range` that cannot be read is ignored, as the RFC asks.
///
/// A date in `If-Range` never holds: two versions of one second have the same date, and the parts of two blobs must
/// not be joined. Clients send dates only where they got no entity tag, and they always get one.
pub fn part(headers: &HeaderMap, held: Version, length: u64) -> Part {
    let Some(range) = only(headers, RANGE).and_then(ByteRange::parse) else { return Part::Whole };
    let same_blob = |value: &str| tags(value).any(|tag| tag.is(held, Strength::Strong));
    if headers.contains_key(IF_RANGE) && !only(headers, IF_RANGE).is_some_and(same_blob) {
        return Part::Whole;
    }
    range.within(length).map_or(Part::Unsatisfiable, Part::Span)
}

/// A version as an entity tag.
pub struct EntityTag(pub Version);

impl fmt::Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

/// When a blob of that version was written, in whole seconds. Versions can lie beyond the last date that HTTP can
/// write, the end of the year 9999; those give that date.
pub fn modified(version: Version) -> SystemTime {
    const YEAR_9999_ENDS: u64 = 253_402_300_799;
    UNIX_EPOCH + Duration::from_secs((version.unix_ms() / 1000).min(YEAR_9999_ENDS))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    Strong,
    Weak,
}

/// Whether a list of tags (or `*`) names the blob.
fn names(headers: &HeaderMap, name: HeaderName, held: Option<Version>, strength: Strength) -> bool {
    let Some(held) = held else { return false };
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.into_iter().any(|value| value.trim() == "*" || tags(value).any(|tag| tag.is(held, strength)))
}

struct Tag<'a> {
    weak: bool,
    opaque: &'a str,
}

impl Tag<'_> {
    fn is(&self, version: Version, strength: Strength) -> bool {
        let comparable = strength == Strength::Weak || !self.weak;
        comparable && self.opaque == version.to_string()
    }
}

/// The tags of a list: `"a", W/"b"`. A tag without quotes, which some clients send, counts as if it had them.
fn tags(list: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut rest = list;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return None;
        }
        let weak = rest.starts_with("W/");
        let text = rest.strip_prefix("W/").unwrap_or(rest);
        let (opaque, after) = match text.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => text.split_once(',').unwrap_or((text, "")),
        };
        rest = after;
        Some(Tag { weak, opaque: opaque.trim_end() })
    })
}

/// The value of a header that stands there once.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

/// A date that cannot be read counts as absent, as the RFC asks.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(only(headers, name)?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    // 2023-11-14T22:13:20.500Z
    const HELD_MS: u64 = 1_700_000_000_500;
    const EARLIER: &str = "Tue, 14 Nov 2023 22:13:19 GMT";
    const SAME: &str = "Tue, 14 Nov 2023 22:13:20 GMT";
    const LATER: &str = "Tue, 14 Nov 2023 22:13:21 GMT";

    type Pairs<'a> = &'a [(HeaderName, &'a str)];

    fn held() -> Version {
        Version::from_parts(HELD_MS, 7)
    }

    /// `@` stands for the entity tag of the held blob.
    fn headers(pairs: Pairs<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let value = value.replace('@', &EntityTag(held()).to_string());
            headers.append(name, HeaderValue::try_from(value).unwrap());
        }
        headers
    }

    #[test]
    fn conditions_on_a_key_that_holds_a_blob() {
        use Verdict::{Failed, NotModified, Proceed};
        let rows: [(Pairs<'_>, Verdict, Verdict); 27] = [
            (&[], Proceed, Proceed),
            (&[(IF_MATCH, "@")], Proceed, Proceed),
            (&[(IF_MATCH, "*")], Proceed, Proceed),
            (&[(IF_MATCH, "\"x\", @")], Proceed, Proceed),
            (&[(IF_MATCH, "\"a,b\",@")], Proceed, Proceed),
            (&[(IF_MATCH, "\"x\""), (IF_MATCH, "@")], Proceed, Proceed),
            (&[(IF_MATCH, "\"x\"")], Failed, Failed),
            (&[(IF_MATCH, "W/@")], Failed, Failed),
            (&[(IF_MATCH, "")], Failed, Failed),
            (&[(IF_NONE_MATCH, "@")], NotModified, Failed),
            (&[(IF_NONE_MATCH, "*")], NotModified, Failed),
            (&[(IF_NONE_MATCH, "W/@")], NotModified, Failed),
            (&[(IF_NONE_MATCH, "\"x\", W/\"y\" , @")], NotModified, Failed),
            (&[(IF_NONE_MATCH, "\"x\"")], Proceed, Proceed),
            (&[(IF_MODIFIED_SINCE, EARLIER)], Proceed, Proceed),
            (&[(IF_MODIFIED_SINCE, SAME)], NotModified, Proceed),
            (&[(IF_MODIFIED_SINCE, LATER)], NotModified, Proceed),
            (&[(IF_MODIFIED_SINCE, "yesterday")], Proceed, Proceed),
            (&[(IF_UNMODIFIED_SINCE, EARLIER)], Failed, Failed),
            (&[(IF_UNMODIFIED_SINCE, SAME)], Proceed, Proceed),
            (&[(IF_UNMODIFIED_SINCE, LATER)], Proceed, Proceed),
            (&[(IF_UNMODIFIED_SINCE, "tomorrow")], Proceed, Proceed),
            // What takes precedence over what.
            (&[(IF_MATCH, "@"), (IF_UNMODIFIED_SINCE, EARLIER)], Proceed, Proceed),
            (&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, "@")], Failed, Failed),
            (&[(IF_MATCH, "@"), (IF_NONE_MATCH, "@")], NotModified, Failed),
            (&[(IF_NONE_MATCH, "\"x\""), (IF_MODIFIED_SINCE, LATER)], Proceed, Proceed),
            (&[(IF_UNMODIFIED_SINCE, EARLIER), (IF_NONE_MATCH, "@")], Failed, Failed),
        ];
        for (pairs, read, write) in rows {
            let headers = headers(pairs);
            assert_eq!(check(&headers, Intent::Read, Some(held())), read, "read {pairs:?}");
            assert_eq!(check(&headers, Intent::Write, Some(held())), write, "write {pairs:?}");
        }
    }

    #[test]
    fn conditions_on_a_key_that_holds_nothing() {
        for (pairs, verdict) in [
            ([(IF_NONE_MATCH, "*")], Verdict::Proceed),
            ([(IF_NONE_MATCH, "@")], Verdict::Proceed),
            ([(IF_MATCH, "*")], Verdict::Failed),
            ([(IF_MATCH, "@")], Verdict::Failed),
            ([(IF_UNMODIFIED_SINCE, EARLIER)], Verdict::Proceed),
        ] {
            assert_eq!(check(&headers(&pairs), Intent::Write, None), verdict, "{pairs:?}");
        }
    }

    #[test]
    fn tags_without_quotes_count() {
        let unquoted = format!("x, {}", held());
        let headers = headers(&[(IF_MATCH, &unquoted)]);
        assert_eq!(check(&headers, Intent::Write, Some(held())), Verdict::Proceed);
    }

    #[test]
    fn only_conditions_on_writes_need_the_key_to_be_looked_up() {
        assert!(any(&headers(&[(IF_MATCH, "*")])));
        assert!(any(&headers(&[(IF_NONE_MATCH, "*")])));
        assert!(any(&headers(&[(IF_UNMODIFIED_SINCE, SAME)])));
        assert!(!any(&headers(&[(IF_MODIFIED_SINCE, SAME), (RANGE, "bytes=0-1")])));
    }

    #[test]
    fn ranges() {
        let span = |start, end| Part::Span(Span { start, end });
        let rows: [(Pairs<'_>, Part); 15] = [
            (&[], Part::Whole),
            (&[(RANGE, "bytes=0-99")], span(0, 100)),
            (&[(RANGE, "bytes=0-999")], span(0, 1000)),
            (&[(RANGE, "bytes=990-2000")], span(990, 1000)),
            (&[(RANGE, "bytes=-1")], span(999, 1000)),
            (&[(RANGE, "bytes=1000-")], Part::Unsatisfiable),
            (&[(RANGE, "bytes=-0")], Part::Unsatisfiable),
            (&[(RANGE, "bytes=0-1,5-6")], Part::Whole),
            (&[(RANGE, "lines=0-1")], Part::Whole),
            (&[(RANGE, "bytes=0-1"), (RANGE, "bytes=5-6")], Part::Whole),
            (&[(RANGE, "bytes=0-9"), (IF_RANGE, "@")], span(0, 10)),
            (&[(RANGE, "bytes=0-9"), (IF_RANGE, "W/@")], Part::Whole),
            (&[(RANGE, "bytes=0-9"), (IF_RANGE, "\"x\"")], Part::Whole),
            (&[(RANGE, "bytes=5000-"), (IF_RANGE, "\"x\"")], Part::Whole),
            (&[(RANGE, "bytes=0-9"), (IF_RANGE, SAME)], Part::Whole),
        ];
        for (pairs, expected) in rows {
            assert_eq!(part(&headers(pairs), held(), 1000), expected, "{pairs:?}");
        }
    }

    #[test]
    fn every_version_has_a_date_that_http_can_write() {
        for version in [Version::from_bytes([0; 16]), Version::from_bytes([0xff; 16]), held()] {
            assert!(httpdate::fmt_http_date(modified(version)).ends_with("GMT"));
        }
    }
}
