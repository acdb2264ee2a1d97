//! How long ago something was, in words.

use crate::daemon::unix_ms;

/// How long ago a moment was, given in milliseconds since 1970.
pub fn since(then_ms: u64) -> String {
    of(unix_ms().saturating_sub(then_ms))
}

/// So many milliseconds in the greatest unit that fits.
pub fn of(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let words = [0, 59_999, 60_000, 3_599_000, 7_200_000, 200_000_000].map(of);
        assert_eq!(words, ["0 s", "59 s", "1 min", "59 min", "2 h", "2 d"]);
        assert_eq!(since(u64::MAX), "0 s", "a clock that runs behind");
    }
}
