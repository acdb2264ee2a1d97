//! The requests of one upload on their way to the servers of a shard: given the whole body or fed, watched for being late, settled as
//! they end.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::oneshot;

use super::{
    error::Tried,
    fanout::{Fanout, Place, Reached},
    fleet::Door,
    lag::{self, Lag, Way},
    source::Source,
};
use crate::{
    client::{PutBody, PutHead, PutSender, ServerError, Stored},
    http::Body,
    model::{Server, ServerId},
};

/// How often it is looked whether a server is late; more often where the patience is short.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is handed to a server: the next bytes, or the word that the body is complete.
pub(super) enum Part {
    Bytes(Bytes),
    End,
}

/// What is known of the body.
#[derive(Clone, Copy)]
pub(super) struct Known {
    can_replay: bool,
    length: u64,
}

impl Known {
    pub(super) fn of(source: &Source) -> Self {
        Self { can_replay: source.can_replay(), length: source.length() }
    }
}

/// How a request ended.
struct Outcome {
    server: Arc<Server>,
    /// It was told the body's length.
    had_length: bool,
    result: Result<Stored, ServerError>,
}

/// A request that did not end yet.
struct Going {
    server: Arc<Server>,
    /// `None` while it is handed a part, and once it has the whole body.
    sender: Option<PutSender>,
    lag: Lag,
    /// Since when it has the whole body.
    whole: Option<Instant>,
    /// Others are to do its work. If it still ends well, so much the better.
    late: bool,
    /// Ends it before its time.
    cut: Option<oneshot::Sender<Duration>>,
}

/// All requests of an upload to one shard.
pub(super) struct Running<'a> {
    fanout: &'a Fanout<'a>,
    puts: FuturesUnordered<BoxFuture<'a, Outcome>>,
    going: Vec<Going>,
    pub(super) reached: Reached,
    /// Servers that want a length, while the body has none yet. Others are better; the last resort is to spool the body.
    pub(super) want_length: Vec<Arc<Server>>,
    /// Servers that were cut in mid body: each may be tried once more, for the next one may be worse.
    cut_before: Vec<Arc<Server>>,
    again: Vec<Arc<Server>>,
    /// How often the upload left a server, here and in other shards. Each time it is twice as patient: where all are slow,
    /// it is not them.
    left: u32,
}

impl<'a> Running<'a> {
    pub(super) fn new(fanout: &'a Fanout<'a>, left: u32) -> Self {
        Self {
            fanout,
            puts: FuturesUnordered::new(),
            going: Vec::new(),
            reached: Reached::default(),
            want_length: Vec::new(),
            cut_before: Vec::new(),
            again: Vec::new(),
            left,
        }
    }

    /// Begins a request, with the whole body if that is there; otherwise it is fed.
    pub(super) fn start(&mut self, server: Arc<Server>, head: PutHead, whole: Option<Bytes>) {
        let (fanout, now) = (self.fanout, Instant::now());
        let (mut lag, whole_since) = (Lag::default(), whole.is_some().then_some(now));
        let (sender, body) = match whole {
            Some(bytes) => {
                lag.begin(now);
                (None, Body::from(bytes))
            }
            None => {
                let (sender, body) = PutBody::channel(head.length);
                (Some(sender), body)
            }
        };
        let (cut, is_cut) = oneshot::channel();
        let target = Arc::clone(&server);
        let in_flight = fanout.fleet.begin(&server.id, Door::Write);
        let put = async move {
            let result = tokio::select! {
                result = fanout.servers.put(&target, &head, body, fanout.blob.id) => result,
                Ok(lag) = is_cut => Err(ServerError::Slow(lag)),
            };
            drop(in_flight);
            Outcome { server: target, had_length: head.length.is_some(), result }
        };
        self.puts.push(Box::pin(put));
        let cut = Some(cut);
        self.going.push(Going { server, sender, lag, whole: whole_since, late: false, cut });
    }

    /// Whether any request did not end yet.
    pub(super) fn goes_on(&self) -> bool {
        !self.puts.is_empty()
    }

    /// Servers that have the blob, or are getting it in time.
    pub(super) fn engaged(&self) -> usize {
        self.going.iter().filter(|going| !going.late).count() + self.reached.stored.len()
    }

    /// Whether others are to do the work of a server.
    pub(super) fn has_late(&self) -> bool {
        self.going.iter().any(|going| going.late)
    }

    /// A condition that does not hold on one server is the answer; no other server is asked.
    pub(super) fn refused_for_good(&self) -> bool {
        self.reached.failed.0.iter().any(|(_, error)| *error == ServerError::Precondition)
    }

    /// What servers said, or did not say, until now.
    pub(super) fn said(&mut self) -> Tried {
        let mut tried = std::mem::take(&mut self.reached.failed);
        let now = Instant::now();
        let late = self.going.iter().filter(|going| going.late);
        tried.0.extend(late.map(|going| (going.server.id.clone(), ServerError::Slow(going.lag.until(now)))));
        tried
    }

    /// What came of it. Requests that did not end yet are broken off.
    pub(super) fn end(mut self) -> Reached {
        let want_length = self.want_length.drain(..);
        let wanted = want_length.map(|server| (server.id.clone(), ServerError::NeedsLength));
        self.reached.failed.0.extend(wanted);
        self.reached
    }

    /// Hands a part to every server, or to one of them, at once. The slowest sets the pace, as long as it is not late.
    pub(super) async fn feed(&mut self, part: &Part, to: Option<&ServerId>, place: &Place<'_>, known: Known) {
        let started = Instant::now();
        let mut sends = FuturesUnordered::new();
        for going in self.going.iter_mut().filter(|going| to.is_none_or(|id| going.server.id == *id)) {
            let Some(sender) = going.sender.take() else { continue };
            if known.can_replay {
                going.lag.begin(started);
            }
            sends.push(hand(going.server.id.clone(), sender, part));
        }
        while !sends.is_empty() {
            let look_every = self.look_every();
            tokio::select! {
                biased;
                Some((id, sender)) = sends.next() => self.handed(&id, sender, part),
                Some(outcome) = self.puts.next() => self.settle(outcome),
                () = tokio::time::sleep(look_every) => self.judge(place, known),
            }
        }
    }

    /// A server took a part, or its request ended: then there is no sender.
    fn handed(&mut self, id: &ServerId, sender: Option<PutSender>, part: &Part) {
        let now = Instant::now();
        for going in &mut self.going {
            if going.server.id != *id {
                if going.sender.is_none() {
                    // From now on it is behind another one.
                    going.lag.begin(now);
                }
                continue;
            }
            going.lag.end(now);
            match part {
                Part::Bytes(_) => going.sender = sender,
                Part::End => {
                    going.whole = Some(now);
                    going.lag.begin(now);
                }
            }
            return;
        }
    }

    /// Waits until a request ends, or a server is found to be late.
    pub(super) async fn next_event(&mut self, place: &Place<'_>, known: Known) {
        let look_every = self.look_every();
        tokio::select! {
            biased;
            () = self.settle_next() => {}
            () = tokio::time::sleep(look_every) => self.judge(place, known),
        }
    }

    /// Waits until a request ends; for ever if there is none.
    pub(super) async fn settle_next(&mut self) {
        match self.puts.next().await {
            Some(outcome) => self.settle(outcome),
            None => std::future::pending().await,
        }
    }

    fn look_every(&self) -> Duration {
        LOOK_EVERY.min(self.fanout.patience.first / 4)
    }

    fn settle(&mut self, Outcome { server, had_length, result }: Outcome) {
        let going = self.going.iter().position(|going| going.server.id == server.id);
        let going = going.map(|index| self.going.swap_remove(index));
        let result = match result {
            Ok(stored) if stored.is_early => {
                Err(ServerError::Broken("it answered before it had the whole body".to_owned()))
            }
            result => result,
        };
        // What there is to say of one that was late was said then.
        if let Some(going) = going.filter(|going| !going.late) {
            self.note(&server, &result);
            if let (Ok(_), Some(whole)) = (&result, going.whole) {
                self.fanout.fleet.stored_within(&server.id, whole.elapsed());
            }
        }
        match result {
            Ok(stored) => self.reached.stored.push((server, stored)),
            Err(ServerError::NeedsLength) if !had_length => self.want_length.push(server),
            Err(error) => self.reached.failed.0.push((server.id.clone(), error)),
        }
    }

    fn note(&self, server: &Server, result: &Result<Stored, ServerError>) {
        let fanout = self.fanout;
        match result {
            Ok(_) => fanout.fleet.succeeded(&server.id, Door::Write),
            Err(error) => {
                fanout.fleet.failed(&server.id, Door::Write, error);
                metrics::counter!("backpack_coordinator_server_errors_total", "error" => error.label())
                    .increment(1);
                let (server, request_id, key) = (&server.id, fanout.blob.id, fanout.blob.key);
                tracing::warn!(%server, %error, %request_id, %key, "server did not take the upload");
            }
        }
    }

    /// Finds the servers that are late, and leaves them.
    fn judge(&mut self, place: &Place<'_>, known: Known) {
        let now = Instant::now();
        let patience = self.fanout.patience.after_leaving(self.left);
        let mut left = 0;
        for index in 0..self.going.len() {
            let going = &self.going[index];
            let lag = going.lag.until(now);
            if going.late || lag < patience.first.min(patience.last) {
                continue;
            }
            let way = self.way_without(index, place, known);
            if lag::limit(way, patience, known.length).is_none_or(|limit| lag < limit) {
                continue;
            }
            self.note(&going.server, &Err(ServerError::Slow(lag)));
            let going = &mut self.going[index];
            going.late = true;
            left += u32::from(way == Way::Elsewhere);
            // One that has the whole body may still answer, and costs nothing; one in mid body holds the others up.
            if (going.whole.is_none() || way == Way::Without)
                && let Some(cut) = going.cut.take()
            {
                // It may have ended in this moment.
                let _ = cut.send(lag);
                if !self.cut_before.iter().any(|before| before.id == going.server.id) {
                    self.cut_before.push(Arc::clone(&going.server));
                    self.again.push(Arc::clone(&going.server));
                }
            }
        }
        self.left += left;
    }

    /// Servers that were cut and may be tried once more.
    pub(super) fn take_again(&mut self) -> Vec<Arc<Server>> {
        let going = &self.going;
        let has_ended = |server: &mut Arc<Server>| going.iter().all(|going| going.server.id != server.id);
        self.again.extract_if(.., has_ended).collect()
    }

    /// How often the upload left a server.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    fn way_without(&self, index: usize, place: &Place<'_>, known: Known) -> Way {
        let fleet = self.fanout.fleet;
        if known.can_replay {
            let own = &self.going[index].server.id;
            let again = self.again.iter().filter(|server| server.id != *own);
            let mut spare = place.candidates.iter().chain(again);
            let spare = spare.any(|server| !fleet.is_down(&server.id, Door::Write));
            if spare || self.reached.stored.is_empty() && (place.elsewhere)() {
                return Way::Elsewhere;
            }
        }
        let others = self.going.iter().enumerate().any(|(other, going)| other != index && !going.late);
        if others || !self.reached.stored.is_empty() { Way::Without } else { Way::None }
    }
}

/// Hands a part over. The sender comes back unless the request ended.
async fn hand(id: ServerId, sender: PutSender, part: &Part) -> (ServerId, Option<PutSender>) {
    let goes_on = match part {
        Part::Bytes(bytes) => sender.send(bytes.clone()).await,
        Part::End => {
            sender.end().await;
            true
        }
    };
    (id, goes_on.then_some(sender))
}
