//! The body of an upload on its way to one server: as long as was announced, and with its first bytes at hand for a connection
//! that turns out to be closed.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Body as _;
use tokio::time::Instant;

use super::ServerError;
use crate::http::Body;

/// First bytes of a body that are kept, so that it can be sent again. A closed connection is noticed within a round trip;
/// more than this does not leave in that time.
const KEPT_BYTES: usize = 256 * 1024;

/// And no longer than this, or they would be most of the memory of uploads that come slowly.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The body. Dropped, its source hears that no more is wanted.
pub(super) struct Upload {
    body: Body,
    /// What was announced; `None` is sent in chunks.
    length: Option<u64>,
    /// Bytes given to the connection.
    given: u64,
    is_whole: bool,
    /// What was given to a connection that may be closed.
    kept: Option<Kept>,
    /// To be given again before the rest.
    again: VecDeque<Bytes>,
}

struct Kept {
    parts: VecDeque<Bytes>,
    bytes: usize,
    until: Instant,
}

impl Upload {
    pub(super) fn new(body: Body, length: Option<u64>) -> Self {
        let is_whole = length == Some(0);
        Self { body, length, given: 0, is_whole, kept: None, again: VecDeque::new() }
    }

    /// Whether it goes in chunks, since its length is not known.
    pub(super) fn is_chunked(&self) -> bool {
        self.length.is_none()
    }

    /// Whether all of it was given.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Keeps what is given from now on, as long as it is not too much and not for too long.
    pub(super) fn keep(&mut self) {
        self.kept = Some(Kept { parts: VecDeque::new(), bytes: 0, until: Instant::now() + KEPT_FOR });
    }

    /// Until when bytes are kept, if they are.
    pub(super) fn kept_until(&self) -> Option<Instant> {
        self.kept.as_ref().map(|kept| kept.until)
    }

    /// Keeps nothing any more.
    pub(super) fn let_go(&mut self) {
        self.kept = None;
    }

    /// Begins anew, for another connection. `false` if what was given is not at hand any more.
    pub(super) fn rewind(&mut self) -> bool {
        let kept = self.kept.take().filter(|kept| Instant::now() < kept.until);
        if self.given > 0 {
            let Some(kept) = kept else { return false };
            self.again = kept.parts;
        }
        self.given = 0;
        self.is_whole = self.length == Some(0);
        true
    }

    /// The next bytes, never empty; `None` at the end, if that is not known before.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ServerError>> {
        if let Some(bytes) = self.again.pop_front() {
            return Poll::Ready(self.give(bytes));
        }
        loop {
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.end());
            };
            let frame = frame.map_err(|error| ServerError::Source(error.to_string()))?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Poll::Ready(self.give(bytes));
            }
        }
    }

    fn give(&mut self, bytes: Bytes) -> Result<Option<Bytes>, ServerError> {
        self.given += bytes.len() as u64;
        if self.length.is_some_and(|length| self.given > length) {
            return Err(ServerError::Source("it is longer than was announced".to_owned()));
        }
        if self.length == Some(self.given) {
            self.end()?;
        }
        if let Some(kept) = &mut self.kept {
            kept.bytes += bytes.len();
            if kept.bytes > KEPT_BYTES || Instant::now() >= kept.until {
                self.let_go();
            } else {
                kept.parts.push_back(bytes.clone());
            }
        }
        Ok(Some(bytes))
    }

    fn end(&mut self) -> Result<Option<Bytes>, ServerError> {
        if self.length.is_some_and(|length| self.given < length) {
            return Err(ServerError::Source("it is shorter than was announced".to_owned()));
        }
        self.is_whole = true;
        // Whoever feeds it has nothing to wait for.
        self.body = Body::Empty;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::http::body::BoxError;

    fn upload(parts: &[&'static str], length: Option<u64>) -> Upload {
        let frames: Vec<_> = parts
            .iter()
            .map(|part| Ok::<_, BoxError>(Frame::data(Bytes::from_static(part.as_bytes()))))
            .collect();
        Upload::new(Body::stream(StreamBody::new(stream::iter(frames))), length)
    }

    fn next(upload: &mut Upload) -> Result<Option<String>, ServerError> {
        match upload.poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(next) => {
                next.map(|part| part.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
            }
            Poll::Pending => panic!("it waits"),
        }
    }

    fn rest(upload: &mut Upload) -> Result<String, ServerError> {
        let mut all = String::new();
        while !upload.is_whole() {
            all.extend(next(upload)?);
        }
        Ok(all)
    }

    #[test]
    fn a_body_is_as_long_as_was_announced() {
        for (parts, length) in
            [(&["ab", "", "cde"][..], Some(5)), (&["ab", "cde"], None), (&[], None), (&[], Some(0))]
        {
            assert_eq!(
                rest(&mut upload(parts, length)).as_deref(),
                Ok(parts.concat().as_str()),
                "{length:?}"
            );
        }
        for (parts, length) in [(&["ab", "cd"][..], 5), (&["ab", "cd"], 3), (&[], 1)] {
            let result = rest(&mut upload(parts, Some(length)));
            assert!(matches!(result, Err(ServerError::Source(_))), "{parts:?} {length}: {result:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_is_given_again_while_it_is_kept() {
        for length in [Some(6), None] {
            let mut upload = upload(&["ab", "cd", "ef"], length);
            assert!(upload.rewind(), "nothing was given");
            upload.keep();
            assert_eq!(
                (next(&mut upload), next(&mut upload)),
                (Ok(Some("ab".into())), Ok(Some("cd".into())))
            );
            assert!(upload.rewind());
            assert_eq!(rest(&mut upload).as_deref(), Ok("abcdef"));
            assert!(!upload.rewind(), "it is not kept for a third one");
        }
        let mut late = upload(&["ab"], Some(2));
        late.keep();
        assert_eq!(rest(&mut late).as_deref(), Ok("ab"));
        tokio::time::advance(KEPT_FOR).await;
        assert!(!late.rewind(), "whatever is waited for");
        let mut whole = upload(&["ab"], None);
        whole.keep();
        assert_eq!(rest(&mut whole).as_deref(), Ok("ab"));
        assert!(whole.rewind() && !whole.is_whole());
        assert_eq!(rest(&mut whole).as_deref(), Ok("ab"), "also after the end");

        let mut slow = upload(&["ab", "cd"], Some(4));
        slow.keep();
        next(&mut slow).unwrap();
        tokio::time::advance(KEPT_FOR).await;
        next(&mut slow).unwrap();
        assert!(!slow.rewind(), "not for long");

        let much = "x".repeat(KEPT_BYTES).leak();
        let mut long = upload(&[much, "y"], None);
        long.keep();
        next(&mut long).unwrap();
        assert!(long.kept_until().is_some());
        next(&mut long).unwrap();
        assert!(!long.rewind(), "not much");
    }
}
