//! What servers say, page by page. Memory is bounded by a page of each.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::try_join_all;

use super::{
    compare::ScrubError,
    span::{Aligner, Span},
    verdict::Held,
};
use crate::{
    client::{Presence, ServerError, Servers, listing::MAX_LIST_LIMIT},
    daemon::Backoff,
    http::RequestId,
    model::{Key, KeyRange, Listed, Server, ServerId},
};

/// Ranges asked for at once: of a hundred thousand keys, some tenths of a second of a node's time.
const RANGES: usize = 1000;
/// A short pause of a server ends no comparison that has taken an hour.
const TRIES: u32 = 4;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(4) };
/// A span is listed with a page that has room for what it held when it was summed up, and for so many more.
const SPARE_LINES: u64 = 32;

/// Asks servers, more than once if need be.
pub(super) struct Asker {
    pub servers: Arc<Servers>,
    pub id: RequestId,
}

impl Asker {
    /// Tries again while the server is in trouble.
    pub async fn patiently<T, F>(&self, server: &ServerId, ask: impl Fn() -> F) -> Result<T, ScrubError>
    where
        F: Future<Output = Result<T, ServerError>>,
    {
        let mut failures = 0;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_down() && failures + 1 < TRIES => {
                    failures += 1;
                    tokio::time::sleep(BACKOFF.jittered(failures)).await;
                }
                Err(error) => return Err(ScrubError::Server { server: server.clone(), error }),
            }
        }
    }

    /// What a server that cannot list holds under a key.
    pub async fn look(&self, server: &Server, key: &Key) -> Result<Held, ScrubError> {
        let look = || self.servers.look(server, key, &self.id);
        Ok(match self.patiently(&server.id, look).await? {
            Presence::Nothing => Held::Nothing,
            Presence::Blob { version: None, length, .. } => Held::Unversioned(length),
            Presence::Blob { version: Some(version), length, checksum } => {
                Held::Blob { version, checksum, length: length.unwrap_or(0) }
            }
            Presence::Deleted(version) => version.map_or(Held::Nothing, Held::Deleted),
        })
    }
}

/// The spans of several servers, from a key on.
pub(super) struct Spans<'a> {
    asker: &'a Asker,
    servers: &'a [Arc<Server>],
    deletes_since_ms: u64,
    /// Of each server: ranges that were not laid beside the others yet, and the last key of those that were fetched.
    ranges: Vec<(VecDeque<KeyRange>, Option<Key>)>,
    aligner: Aligner,
    ended: bool,
}

impl<'a> Spans<'a> {
    pub fn new(
        asker: &'a Asker,
        servers: &'a [Arc<Server>],
        after: Option<Key>,
        deletes_since_ms: u64,
    ) -> Self {
        Self {
            asker,
            servers,
            deletes_since_ms,
            ranges: vec![(VecDeque::new(), after.clone()); servers.len()],
            aligner: Aligner::new(servers.len(), after),
            ended: false,
        }
    }

    /// The next span; none behind the one that has no end.
    pub async fn next(&mut self) -> Result<Option<Span>, ScrubError> {
        while !self.ended {
            self.fill().await?;
            let next: Vec<&KeyRange> = self.ranges.iter().map(|(ranges, _)| &ranges[0]).collect();
            let (taken, span) = self.aligner.take(&next);
            taken.iter().for_each(|&at| drop(self.ranges[at].0.pop_front()));
            if let Some(span) = span {
                self.ended = span.until.is_none();
                return Ok(Some(span));
            }
        }
        Ok(None)
    }

    /// Fetches the next page of each server of which nothing is left.
    async fn fill(&mut self) -> Result<(), ScrubError> {
        let (asker, since) = (self.asker, self.deletes_since_ms);
        let empty = self.ranges.iter_mut().zip(self.servers).filter(|((ranges, _), _)| ranges.is_empty());
        let fetches = empty.map(|((ranges, after), server)| async move {
            let ask = || asker.servers.digest(server, after.as_ref(), RANGES, since, &asker.id);
            let page = asker.patiently(&server.id, ask).await?;
            check_order(after.as_ref(), &page).map_err(|error| wrong(server, error))?;
            *after = page.last().and_then(|range| range.until.clone());
            ranges.extend(page);
            Ok::<_, ScrubError>(())
        });
        try_join_all(fetches).await?;
        Ok(())
    }
}

fn wrong(server: &Server, what: &str) -> ScrubError {
    ScrubError::Server { server: server.id.clone(), error: ServerError::WrongBytes(what.to_owned()) }
}

/// A server whose pages do not go on would be asked for ever.
fn check_order(after: Option<&Key>, page: &[KeyRange]) -> Result<(), &'static str> {
    if page.is_empty() {
        return Err("a page of digests without a range");
    }
    let mut before = after;
    for (at, range) in page.iter().enumerate() {
        match &range.until {
            Some(until) if before.is_none_or(|before| before < until) => before = Some(until),
            Some(_) => return Err("digests that are not in order"),
            None if at + 1 == page.len() => {}
            None => return Err("digests behind the last one"),
        }
    }
    Ok(())
}

/// What several servers hold from a key on, key by key.
pub(super) struct Keys<'a> {
    asker: &'a Asker,
    servers: &'a [Arc<Server>],
    limit: usize,
    until: Option<Key>,
    /// Of each server: lines that were not given out yet, the last key that was fetched, and whether it was the last of all.
    lines: Vec<(VecDeque<Listed>, Option<Key>, bool)>,
}

impl<'a> Keys<'a> {
    /// All keys of a span.
    pub fn of(asker: &'a Asker, servers: &'a [Arc<Server>], span: &Span) -> Self {
        let limit = (span.keys() + SPARE_LINES).min(MAX_LIST_LIMIT as u64) as usize;
        let lines = vec![(VecDeque::new(), span.after.clone(), false); servers.len()];
        Self { asker, servers, limit, until: span.until.clone(), lines }
    }

    /// The next key that any server holds, and what each holds under it.
    pub async fn next(&mut self) -> Result<Option<(Key, Vec<Held>)>, ScrubError> {
        self.fill().await?;
        let first = self.lines.iter().filter_map(|(lines, ..)| lines.front()).map(|listed| &listed.key).min();
        let Some(key) = first.filter(|key| self.until.as_ref().is_none_or(|until| *key <= until)).cloned()
        else {
            return Ok(None);
        };
        let held = self.lines.iter_mut().map(|(lines, ..)| {
            let listed = lines.pop_front_if(|listed| listed.key == key);
            listed.as_ref().map_or(Held::Nothing, Held::from)
        });
        let held = held.collect();
        Ok(Some((key, held)))
    }

    async fn fill(&mut self) -> Result<(), ScrubError> {
        let (asker, limit) = (self.asker, self.limit);
        let empty = self
            .lines
            .iter_mut()
            .zip(self.servers)
            .filter(|((lines, _, ended), _)| lines.is_empty() && !ended);
        let fetches = empty.map(|((lines, after, ended), server)| async move {
            let ask = || asker.servers.list(server, after.as_ref(), limit, &asker.id);
            let page = asker.patiently(&server.id, ask).await?;
            *ended = page.len() < limit;
            for listed in &page {
                if after.as_ref().is_some_and(|after| *after >= listed.key) {
                    return Err(wrong(server, "a listing that is not in order"));
                }
                *after = Some(listed.key.clone());
            }
            lines.extend(page);
            Ok(())
        });
        try_join_all(fetches).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_make_no_sense_are_refused() {
        let range = |until: Option<&str>| KeyRange {
            until: until.map(|until| until.parse().unwrap()),
            ..KeyRange::default()
        };
        let (a, b) = (range(Some("a")), range(Some("b")));
        let after = Some("a".parse().unwrap());
        assert!(check_order(None, &[a.clone(), b.clone(), range(None)]).is_ok());
        assert!(check_order(after.as_ref(), std::slice::from_ref(&b)).is_ok());
        for page in [vec![], vec![b.clone(), a.clone()], vec![a], vec![range(None), b]] {
            assert!(check_order(after.as_ref(), &page).is_err(), "{page:?}");
        }
    }
}
