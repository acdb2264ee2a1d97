//! Sizes as people write them: `100gb` is 100 x 1024^3, as in the original; `KiB` to `PiB` mean the same powers.

use humansize::{FormatSizeOptions, WINDOWS, format_size};

/// A text that is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size: write a number and one of b, kb, mb, gb, tb, pb (powers of 1024), for example 100gb or 1.5tb"
)]
pub struct SizeError(String);

/// Reads `100gb`, `1.5mb`, `512`, `2TiB` into bytes. Units are powers of 1024 whichever way they are written.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    parse_size::Config::new()
        .with_binary()
        .parse_size(text.trim())
        .map_err(|_| SizeError(text.chars().take(40).collect()))
}

/// Writes bytes as the original does: `0b`, `100gb`, `1.5mb`; at most two decimals.
pub fn format(bytes: u64) -> String {
    let options =
        FormatSizeOptions::from(WINDOWS).space_after_value(false).decimal_zeroes(0).decimal_places(2);
    let text = format_size(bytes, options).to_lowercase();
    match text.split_once('.') {
        // "1.50mb" reads better as "1.5mb".
        Some((whole, rest)) => {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (digits, unit) = rest.split_at(unit_at);
            match digits.trim_end_matches('0') {
                "" => format!("{whole}{unit}"),
                digits => format!("{whole}.{digits}{unit}"),
            }
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_original_reads_and_more() {
        for (text, bytes) in [
            ("100gb", 107_374_182_400),
            ("1.5mb", 1_572_864),
            ("0", 0),
            ("1b", 1),
            ("1kb", 1024),
            ("5tb", 5 << 40),
            ("1pb", 1 << 50),
            ("2KiB", 2048),
            ("3GiB", 3 << 30),
            ("10 GB", 10 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "gb", "-1gb", "1xb", "ten", "1..5gb", "99999999999pb"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn writes_what_the_original_writes() {
        for (bytes, text) in [
            (0, "0b"),
            (17, "17b"),
            (1024, "1kb"),
            (1_572_864, "1.5mb"),
            (107_374_182_400, "100gb"),
            (322_122_547_200, "300gb"),
            (1_234_567, "1.18mb"),
        ] {
            assert_eq!(format(bytes), text);
        }
    }
}
