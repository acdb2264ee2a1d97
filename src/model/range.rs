//! One HTTP byte range (RFC 9110, section 14): `bytes=0-99`, `bytes=100-`, `bytes=-50`.

/// What a client asked for, before the blob's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// From `first` to `last`, both included; without `last`, to the end.
    From {
        /// Offset of the first byte.
        first: u64,
        /// Offset of the last byte.
        last: Option<u64>,
    },
    /// The last so many bytes.
    Suffix(u64),
}

/// The part of a blob to send: `start..end`, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset after the last byte.
    pub end: u64,
}

impl ByteRange {
    /// Reads the value of a `Range` header. `None` where the header is to be ignored, as the RFC asks for units
    /// we do not know, bad syntax, and several ranges (which we answer with the whole blob).
    pub fn parse(value: &str) -> Option<Self> {
        let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
        let number =
            |text: &str| text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        if first.is_empty() {
            return Some(Self::Suffix(number(last)?));
        }
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        (last.is_none_or(|last| last >= first)).then_some(Self::From { first, last })
    }

    /// The bytes this means in a blob of that length; `None` where there are none (416).
    pub fn within(self, length: u64) -> Option<Span> {
        let span = match self {
            Self::From { first, last } => {
                let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                Span { start: first, end }
            }
            Self::Suffix(count) => Span { start: length.saturating_sub(count), end: length },
        };
        (span.start < span.end).then_some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        let span = |text: &str, length| ByteRange::parse(text).unwrap().within(length);
        assert_eq!(span("bytes=0-0", 10), Some(Span { start: 0, end: 1 }));
        assert_eq!(span("bytes=5-", 10), Some(Span { start: 5, end: 10 }));
        assert_eq!(span("bytes=-3", 10), Some(Span { start: 7, end: 10 }));
        assert_eq!(span("bytes=-30", 10), Some(Span { start: 0, end: 10 }));
        assert_eq!(span("bytes=2-18446744073709551615", 10), Some(Span { start: 2, end: 10 }));
        assert_eq!(span("bytes=10-", 10), None);
        assert_eq!(span("bytes=-0", 10), None);
        assert_eq!(span("bytes=0-", 0), None);
    }

    #[test]
    fn ignores_what_the_rfc_says_to_ignore() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "items=0-1",
            "bytes=5-2",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "bytes=a-b",
        ] {
            assert_eq!(ByteRange::parse(text), None, "{text:?}");
        }
    }
}
