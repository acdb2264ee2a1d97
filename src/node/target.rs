//! What a request is about, read from its target. Pure.

use http::Uri;

use super::refusal::Refusal;
use crate::{model::Key, storage::Spot};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A blob.
    Blob(Key),
    /// `/-/list`, one page of what is stored.
    List(ListQuery),
    /// `/-/digest`, one page of the digests of what is stored.
    Digest(DigestQuery),
    /// `/-/damaged`, one page of what is damaged.
    Damaged(DamagedQuery),
    /// `/stats`.
    Stats,
    /// `/-/compaction/pause`, or `resume`.
    Compaction {
        /// Which of the two.
        pause: bool,
    },
    /// `/-/deletes/settle`: those made before that need not be remembered for other servers, milliseconds since 1970.
    Settle {
        /// Before when.
        before_ms: u64,
    },
    /// `/-/damaged/settle`: what this stretch of a volume held was sought on all other servers.
    SettleStretch(Spot),
    /// `/-/scrub/pause`, `resume` or `start`.
    Scrub(ScrubVerb),
    /// Something else under `/-/`, which is nobody's.
    Unknown,
}

/// What the scrub is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScrubVerb {
    /// Wait where it is.
    Pause,
    /// Go on.
    Resume,
    /// Begin a round now.
    Start,
}

/// Lines of a page that asks for no number.
const DEFAULT_LIST_LIMIT: usize = 1_000;
/// A page is built in memory: this many of the longest lines are some 12 MiB.
const MAX_LIST_LIMIT: usize = 10_000;

/// Which page of the listing is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// Only keys that start so.
    pub prefix: String,
    /// Only keys greater than this: the last one of the page before.
    pub after: Option<String>,
    /// At most so many lines.
    pub limit: usize,
}

/// Which page of digests is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestQuery {
    /// Only keys greater than this: the last one of the page before.
    pub after: Option<String>,
    /// At most so many ranges.
    pub limit: usize,
    /// Deletes made before that are left out, milliseconds since 1970.
    pub deletes_since_ms: u64,
}

/// Which page of what is damaged is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedQuery {
    /// Only what lies behind this: the `place` of the last line of the page before.
    pub after: Option<Spot>,
    /// At most so many lines.
    pub limit: usize,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self { prefix: String::new(), after: None, limit: DEFAULT_LIST_LIMIT }
    }
}

impl Target {
    /// The key is everything after the first slash, query string included, as it was sent.
    pub fn read(uri: &Uri) -> Result<Self, Refusal> {
        match uri.path() {
            "/stats" => return Ok(Self::Stats),
            "/-/list" => return ListQuery::read(uri.query().unwrap_or_default()).map(Self::List),
            "/-/digest" => return DigestQuery::read(uri.query().unwrap_or_default()).map(Self::Digest),
            "/-/damaged" => return DamagedQuery::read(uri.query().unwrap_or_default()).map(Self::Damaged),
            "/-/deletes/settle" => return settle(uri.query().unwrap_or_default()),
            "/-/damaged/settle" => return settle_stretch(uri.query().unwrap_or_default()),
            "/-/scrub/pause" => return Ok(Self::Scrub(ScrubVerb::Pause)),
            "/-/scrub/resume" => return Ok(Self::Scrub(ScrubVerb::Resume)),
            "/-/scrub/start" => return Ok(Self::Scrub(ScrubVerb::Start)),
            "/-/compaction/pause" => return Ok(Self::Compaction { pause: true }),
            "/-/compaction/resume" => return Ok(Self::Compaction { pause: false }),
            path if path.starts_with("/-/") => return Ok(Self::Unknown),
            _ => {}
        }
        let target = uri.path_and_query().map_or("", |target| target.as_str());
        Ok(Self::Blob(target.strip_prefix('/').unwrap_or(target).parse()?))
    }
}

impl ListQuery {
    /// Reads `prefix=a&after=b&limit=10`. Values are percent-decoded once; `+` is a plus.
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut read = Self::default();
        for (name, value) in parameters(query) {
            match name {
                "prefix" => read.prefix = decode(name, value)?,
                "after" => read.after = Some(decode(name, value)?),
                "limit" => read.limit = limit(value)?,
                _ => return Err(unknown(name, "prefix, after and limit")),
            }
        }
        Ok(read)
    }
}

impl DigestQuery {
    /// Reads `after=b&limit=10&deletes_since=1700000000000`.
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut read = Self { after: None, limit: DEFAULT_LIST_LIMIT, deletes_since_ms: 0 };
        for (name, value) in parameters(query) {
            match name {
                "after" => read.after = Some(decode(name, value)?),
                "limit" => read.limit = limit(value)?,
                "deletes_since" => {
                    let wrong = |_| Refusal::Query("deletes_since is milliseconds since 1970".to_owned());
                    read.deletes_since_ms = value.parse().map_err(wrong)?;
                }
                _ => return Err(unknown(name, "after, limit and deletes_since")),
            }
        }
        Ok(read)
    }
}

impl DamagedQuery {
    /// Reads `after=7:123&limit=10`.
    fn read(query: &str) -> Result<Self, Refusal> {
        let mut read = Self { after: None, limit: DEFAULT_LIST_LIMIT };
        for (name, value) in parameters(query) {
            match name {
                "after" => {
                    let spot = decode(name, value)?.parse();
                    read.after = Some(spot.map_err(|error| Refusal::Query(format!("after: {error}")))?);
                }
                "limit" => read.limit = limit(value)?,
                _ => return Err(unknown(name, "after and limit")),
            }
        }
        Ok(read)
    }
}

/// Reads `before=1700000000000`.
fn settle(query: &str) -> Result<Target, Refusal> {
    let mut before_ms = None;
    for (name, value) in parameters(query) {
        match name {
            "before" => before_ms = value.parse().ok(),
            _ => return Err(unknown(name, "before")),
        }
    }
    let missing = || Refusal::Query("before must be given, milliseconds since 1970".to_owned());
    Ok(Target::Settle { before_ms: before_ms.ok_or_else(missing)? })
}

/// Reads `place=0/7:123-456`.
fn settle_stretch(query: &str) -> Result<Target, Refusal> {
    let mut place = None;
    for (name, value) in parameters(query) {
        match name {
            "place" => place = decode(name, value)?.parse().ok(),
            _ => return Err(unknown(name, "place")),
        }
    }
    let missing = || Refusal::Query("place must be given, as /-/damaged tells it".to_owned());
    Ok(Target::SettleStretch(place.ok_or_else(missing)?))
}

/// Names and values, as they were sent.
fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn unknown(name: &str, known: &str) -> Refusal {
    Refusal::Query(format!("unknown parameter {name:?} (known: {known})"))
}

fn limit(text: &str) -> Result<usize, Refusal> {
    match text.parse() {
        Ok(limit) if (1..=MAX_LIST_LIMIT).contains(&limit) => Ok(limit),
        _ => Err(Refusal::Query(format!("limit must be a number from 1 to {MAX_LIST_LIMIT}"))),
    }
}

fn decode(name: &str, text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&digit| (digit as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(Refusal::Query(format!(
                "{name} has a '%' that is not followed by two hexadecimal digits"
            )));
        };
        bytes.push((high << 4 | low) as u8);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| Refusal::Query(format!("{name} is not UTF-8 once decoded")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(target: &str) -> Result<Target, Refusal> {
        Target::read(&target.parse().unwrap())
    }

    #[test]
    fn keys_are_taken_as_sent() {
        for (target, key) in [
            ("/hi.txt", "hi.txt"),
            ("/a%20b?x=1&y=%2F", "a%20b?x=1&y=%2F"),
            ("//double", "/double"),
            ("/1:a:b", "1:a:b"),
            ("/?only=query", "?only=query"),
            ("http://host:1/absolute?q", "absolute?q"),
            ("/stats/x", "stats/x"),
            ("/-x", "-x"),
        ] {
            assert_eq!(read(target).unwrap(), Target::Blob(key.parse().unwrap()), "{target}");
        }
        for target in ["/", "/a/../b", "/a%0", "/-", "*"] {
            let read = read(target);
            assert!(matches!(read, Err(Refusal::Key(_)) | Ok(Target::Blob(_))), "{target}: {read:?}");
        }
    }

    #[test]
    fn our_own_paths() {
        assert_eq!(read("/stats").unwrap(), Target::Stats);
        assert_eq!(read("/stats?x").unwrap(), Target::Stats);
        assert_eq!(read("/-/nothing").unwrap(), Target::Unknown);
        assert_eq!(read("/-/compaction/pause").unwrap(), Target::Compaction { pause: true });
        assert_eq!(read("/-/compaction/resume").unwrap(), Target::Compaction { pause: false });
        for (verb, expected) in
            [("pause", ScrubVerb::Pause), ("resume", ScrubVerb::Resume), ("start", ScrubVerb::Start)]
        {
            assert_eq!(read(&format!("/-/scrub/{verb}")).unwrap(), Target::Scrub(expected));
        }
        assert_eq!(read("/-/scrub/stop").unwrap(), Target::Unknown);
        assert_eq!(read("/-/list").unwrap(), Target::List(ListQuery::default()));
    }

    #[test]
    fn listings() {
        let query = |target: &str| match read(target) {
            Ok(Target::List(query)) => Ok(query),
            Ok(other) => panic!("{other:?}"),
            Err(refused) => Err(refused.to_string()),
        };
        let page = query("/-/list?prefix=a%2520b/&after=a%2Fb+c%26&limit=10").unwrap();
        assert_eq!(page.prefix, "a%20b/");
        assert_eq!(page.after.as_deref(), Some("a/b+c&"));
        assert_eq!(page.limit, 10);
        assert_eq!(query("/-/list?").unwrap(), ListQuery::default());
        assert_eq!(query("/-/list?after=").unwrap().after.as_deref(), Some(""));
        for bad in ["limit=0", "limit=10001", "limit=x", "limit=", "prefix=%2", "after=%ff", "perfix=a", "x"]
        {
            assert!(query(&format!("/-/list?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn deletes_that_are_settled() {
        assert_eq!(read("/-/deletes/settle?before=12").unwrap(), Target::Settle { before_ms: 12 });
        for bad in ["", "?before=", "?before=x", "?before=12&befor=13"]
            .map(|query| format!("/-/deletes/settle{query}"))
        {
            assert!(matches!(read(&bad), Err(Refusal::Query(_))), "{bad}");
        }
    }

    #[test]
    fn digests() {
        let expected = DigestQuery { after: Some("a&b".into()), limit: 7, deletes_since_ms: 12 };
        let target = "/-/digest?after=a%26b&limit=7&deletes_since=12";
        assert_eq!(read(target).unwrap(), Target::Digest(expected));
        for bad in ["limit=0", "deletes_since=", "deletes_since=-1", "prefix=a"] {
            assert!(matches!(read(&format!("/-/digest?{bad}")), Err(Refusal::Query(_))), "{bad}");
        }
    }

    #[test]
    fn stretches_that_are_settled() {
        let Target::SettleStretch(spot) = read("/-/damaged/settle?place=1%2F2:64-99").unwrap() else {
            panic!()
        };
        assert_eq!(spot.to_string(), "1/2:64-99");
        for query in ["", "?", "?place=", "?place=x", "?place=0/1:2&before=1"] {
            let refused = read(&format!("/-/damaged/settle{query}"));
            assert!(matches!(refused, Err(Refusal::Query(_))), "{query}");
        }
    }

    #[test]
    fn pages_of_what_is_damaged() {
        let query = |target: &str| match read(target).unwrap() {
            Target::Damaged(query) => (query.after.map(|after| after.to_string()), query.limit),
            other => panic!("{other:?}"),
        };
        assert_eq!(query("/-/damaged"), (None, DEFAULT_LIST_LIMIT));
        assert_eq!(query("/-/damaged?limit=7&after=0/12:345"), (Some("0/12:345".to_owned()), 7));
        assert_eq!(
            query("/-/damaged?after=1%2f2%3A64-99"),
            (Some("1/2:64-99".to_owned()), DEFAULT_LIST_LIMIT)
        );
        for bad in ["limit=0", "limit=10001", "after=", "after=7", "prefix=a", "after=0/1:%zz"] {
            assert!(matches!(read(&format!("/-/damaged?{bad}")), Err(Refusal::Query(_))), "{bad}");
        }
    }
}
