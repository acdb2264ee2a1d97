//! Whether a failed request is worth another try, and when.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::daemon::{Backoff, Shutdown};

/// Waits between tries. With the default of eight retries a file outlasts half a minute without a coordinator: a
/// restart, or a server that is taken out of the map.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(10) };

/// A `Retry-After` longer than this is cut to it: a wrong one must not hold an upload for hours.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// For the user.
    pub(super) text: String,
    /// Whether the same request may succeed later.
    pub(super) again: Again,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The same request will fail again.
    Never,
    /// After a wait that grows.
    Soon,
    /// Not before this time is over.
    After(Duration),
}

impl Failure {
    pub(super) fn never(text: impl ToString) -> Self {
        Self { text: text.to_string(), again: Again::Never }
    }

    pub(super) fn soon(text: impl ToString) -> Self {
        Self { text: text.to_string(), again: Again::Soon }
    }
}

impl Again {
    /// What an answer that is no success says about another try.
    pub(super) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let worth_it = status.is_server_error()
            || matches!(
                status,
                // 409: a newer version came in between. 422: other bytes arrived than were sent.
                StatusCode::REQUEST_TIMEOUT
                    | StatusCode::CONFLICT
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::UNPROCESSABLE_ENTITY
            );
        if !worth_it {
            return Self::Never;
        }
        // A date is as good as nothing: clocks differ.
        let seconds =
            headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        seconds.map_or(Self::Soon, |seconds| Self::After(Duration::from_secs(seconds)))
    }

    /// How long to wait after so many failures, of which `retries` are forgiven; `random` in `0.0..1.0`. `None`: give up.
    pub(super) fn wait(self, failures: u32, retries: u32, random: f64) -> Option<Duration> {
        if failures > retries {
            return None;
        }
        let wait = BACKOFF.wait(failures, random);
        match self {
            Self::Never => None,
            Self::Soon => Some(wait),
            Self::After(asked) => Some(wait.max(asked.min(MAX_RETRY_AFTER))),
        }
    }
}

/// Tries until it works, the failure is final, `retries` more tries failed, or a stop is asked for.
pub(super) async fn until_done<T, F: Future<Output = Result<T, Failure>>>(
    retries: u32,
    stop: &Shutdown,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure> {
    let mut failures = 0;
    loop {
        let failure = match attempt().await {
            Ok(done) => return Ok(done),
            Err(failure) => failure,
        };
        failures += 1;
        match failure.again.wait(failures, retries, fastrand::f64()) {
            Some(wait) if stop.sleep(wait).await => {}
            _ => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn again(status: u16, retry_after: Option<&'static str>) -> Again {
        let mut headers = HeaderMap::new();
        if let Some(value) = retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(value));
        }
        Again::of(StatusCode::from_u16(status).unwrap(), &headers)
    }

    #[test]
    fn what_is_worth_another_try() {
        for status in [408, 422, 429, 500, 502, 503, 504, 507] {
            assert_eq!(again(status, None), Again::Soon, "{status}");
        }
        for status in [400, 401, 403, 404, 405, 411, 412, 413] {
            assert_eq!(again(status, Some("5")), Again::Never, "{status}");
        }
        assert_eq!(again(503, Some("5")), Again::After(Duration::from_secs(5)));
        assert_eq!(again(503, Some("Wed, 21 Oct 2026 07:28:00 GMT")), Again::Soon);
    }

    #[test]
    fn waits_grow_have_a_limit_and_an_end() {
        let wait = |again: Again, failures| again.wait(failures, 3, 1.0);
        assert_eq!(wait(Again::Soon, 1), Some(Duration::from_millis(200)));
        assert_eq!(wait(Again::Soon, 3), Some(Duration::from_millis(800)));
        assert_eq!(wait(Again::Soon, 4), None);
        assert_eq!(wait(Again::Never, 1), None);
        assert_eq!(wait(Again::After(Duration::from_secs(5)), 1), Some(Duration::from_secs(5)));
        assert_eq!(wait(Again::After(Duration::from_secs(0)), 1), Some(Duration::from_millis(200)));
        assert_eq!(wait(Again::After(Duration::from_secs(9999)), 1), Some(MAX_RETRY_AFTER));
        assert_eq!(Again::Soon.wait(1, 0, 1.0), None);
    }
}
