//! A request's body that is watched: a server that takes no byte is told from a source that gives none, and the first
//! bytes are kept for a connection that turns out to be closed.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::{Body, body::BoxError};

/// First bytes of a body that are kept, so that it can be sent again. A closed connection is noticed within a round trip;
/// more than this does not leave in that time.
const KEPT_BYTES: usize = 256 * 1024;

/// And no longer than this, or they would be most of the memory of uploads that come slowly.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The sender's side. Dropped, it ends the body: what is not sent by then is no longer wanted.
pub(super) struct Upload {
    state: Arc<Mutex<State>>,
    hint: SizeHint,
}

struct State {
    body: Body,
    /// What was taken so far; `None` once that is too much to keep.
    kept: Option<Vec<Bytes>>,
    kept_bytes: usize,
    /// To be sent again before the rest.
    again: VecDeque<Bytes>,
    /// Which [`Watched`] may take bytes: one that was given up takes no more.
    attempt: u32,
    /// When the connection last asked for bytes: it had sent what it had.
    asked: Instant,
    /// The connection asked and the source has nothing yet: not the server's fault.
    source_waits: bool,
    /// The connection has all of the body and dropped it.
    ended: bool,
    /// The source failed.
    failed: Option<String>,
    /// Wakes a connection that waits for the source.
    waker: Option<Waker>,
}

impl Upload {
    pub(super) fn new(body: Body) -> Self {
        let hint = body.size_hint();
        let state = State {
            body,
            kept: Some(Vec::new()),
            kept_bytes: 0,
            again: VecDeque::new(),
            attempt: 0,
            asked: Instant::now(),
            source_waits: false,
            ended: false,
            failed: None,
            waker: None,
        };
        Self { state: Arc::new(Mutex::new(state)), hint }
    }

    /// The body for a request.
    pub(super) fn body(&self) -> Body {
        let attempt = self.state.lock().attempt;
        Body::stream(Watched { state: self.state.clone(), attempt, hint: self.hint })
    }

    /// Begins the body anew for another request, if all that was taken is still at hand.
    pub(super) fn rewind(&self) -> bool {
        let mut state = self.state.lock();
        if state.failed.is_some() {
            return false;
        }
        let Some(kept) = state.kept.take() else { return false };
        state.again = kept.into();
        state.attempt += 1;
        state.asked = Instant::now();
        state.source_waits = false;
        state.ended = false;
        true
    }

    /// Why the source failed, if it did.
    pub(super) fn source_failed(&self) -> Option<String> {
        self.state.lock().failed.clone()
    }

    /// Waits until the server has made no progress for too long: `stall` in mid body, `answer` after its end. Meanwhile it
    /// lets go what was kept for long enough.
    pub(super) async fn stalled(&self, stall: Duration, answer: Duration) -> Duration {
        let kept_until = Instant::now() + KEPT_FOR;
        let mut look_every = KEPT_FOR.min(stall).min(answer);
        loop {
            let (limit, since) = {
                let mut state = self.state.lock();
                if Instant::now() >= kept_until {
                    state.kept = None;
                    look_every = stall.min(answer);
                }
                let since = if state.source_waits { Instant::now() } else { state.asked };
                (if state.ended { answer } else { stall }, since)
            };
            if since.elapsed() >= limit {
                return limit;
            }
            // Looked at again at least this often, for the body may have ended or waited meanwhile.
            tokio::time::sleep_until((since + limit).min(Instant::now() + look_every)).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        state.attempt += 1;
        state.body = Body::Empty;
        state.kept = None;
        state.again.clear();
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(bytes) = self.again.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => self.keep(frame),
            Poll::Ready(Some(Err(error))) => self.failed = Some(error.to_string()),
            _ => {}
        }
        polled
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        self.kept_bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.kept_bytes > KEPT_BYTES {
            self.kept = None;
        }
        if let (Some(kept), Some(bytes)) = (&mut self.kept, frame.data_ref()) {
            kept.push(bytes.clone());
        }
    }
}

/// The connection's side.
struct Watched {
    state: Arc<Mutex<State>>,
    attempt: u32,
    hint: SizeHint,
}

impl Drop for Watched {
    /// hyper drops a body of known length after its last byte, without asking for the end.
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.attempt == self.attempt {
            state.asked = Instant::now();
            state.source_waits = false;
            state.ended = true;
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.state.lock();
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err("the request is over".into())));
        }
        let polled = state.poll(cx);
        state.asked = Instant::now();
        state.source_waits = polled.is_pending();
        state.waker = polled.is_pending().then(|| cx.waker().clone());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let state = self.state.lock();
        state.attempt == self.attempt && state.again.is_empty() && state.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
