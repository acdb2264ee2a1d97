//! Which request is what. Bad requests are answered here, before anything is touched.

use std::{sync::Arc, time::Instant};

use http::{Method, Request, StatusCode};
use metrics::counter;

use super::{Coordinator, error::RequestError, stats::Stats};
use crate::{
    http::{Answer, Handler, Payload, RequestId, headers, reply},
    model::{Key, ShardId, Version},
};

const ROLE: &str = "coordinator";

impl Handler for Arc<Coordinator> {
    fn role(&self) -> &'static str {
        ROLE
    }

    async fn handle(&self, request: Request<Payload>, id: &RequestId) -> Answer {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let path = target.strip_prefix('/').unwrap_or(&target);
        match *request.method() {
            Method::GET | Method::HEAD if path == "stats" || path.starts_with("stats?") => self.stats(),
            Method::GET | Method::HEAD if path == "-/map" => self.map(),
            Method::GET | Method::HEAD => self.answer_read(request, path, id).await,
            Method::PUT => self.answer_upload(request, path, id).await,
            Method::POST if path.is_empty() => self.answer_post(request, id).await,
            Method::DELETE => self.answer_delete(request, path, id).await,
            _ => reply::method_not_allowed(request.method(), "GET, HEAD, PUT, DELETE, POST"),
        }
    }
}

impl Coordinator {
    fn stats(&self) -> Answer {
        let state = super::freshness(self.view.state()).err().unwrap_or_else(|| "current".to_owned());
        reply::json(
            StatusCode::OK,
            &Stats::new(&self.totals, &self.view.map(), self.usage.pending_bytes(), state),
        )
    }

    fn map(&self) -> Answer {
        reply::json(StatusCode::OK, &super::dump::map(&self.view.map(), |shard| self.usage.used(shard)))
    }

    async fn answer_upload(
        self: &Arc<Self>,
        request: Request<Payload>,
        path: &str,
        id: &RequestId,
    ) -> Answer {
        let uploaded = match path.parse::<Key>() {
            Ok(key) => self.upload(request, key, id).await,
            Err(error) => {
                let refused = Err(RequestError::Bad(error.to_string()));
                self.count_upload(&refused, Instant::now());
                refused
            }
        };
        uploaded.unwrap_or_else(|error| note(error, path, id))
    }

    /// `POST /`: an upload whose key the coordinator makes up.
    async fn answer_post(self: &Arc<Self>, request: Request<Payload>, id: &RequestId) -> Answer {
        let key: Version = self.clock.next();
        let mut answer = self.answer_upload(request, &key.to_string(), id).await;
        if answer.status() == StatusCode::OK {
            headers::set(answer.headers_mut(), headers::KEY, key);
        }
        answer
    }

    async fn answer_read(self: &Arc<Self>, request: Request<Payload>, path: &str, id: &RequestId) -> Answer {
        match address(path) {
            Some(Ok((shard, key))) => {
                let read = self.read(shard, key, request.method().clone(), request.headers(), id).await;
                read.unwrap_or_else(|error| note(error, path, id))
            }
            Some(Err(error)) => error.answer(),
            None => unknown_url(request.method(), path),
        }
    }

    async fn answer_delete(
        self: &Arc<Self>,
        request: Request<Payload>,
        path: &str,
        id: &RequestId,
    ) -> Answer {
        match address(path) {
            Some(Ok((shard, key))) => {
                let deleted = self.delete(shard, key, request.headers(), id).await;
                let result = if deleted.is_ok() { "ok" } else { "error" };
                counter!("backpack_coordinator_deletes_total", "result" => result).increment(1);
                deleted.unwrap_or_else(|error| note(error, path, id))
            }
            Some(Err(error)) => error.answer(),
            None => unknown_url(request.method(), path),
        }
    }

    /// Counts an upload that ended, whether or not its client still waits.
    pub(super) fn count_upload(&self, uploaded: &Result<Answer, RequestError>, started: Instant) {
        let elapsed = started.elapsed();
        let result = match uploaded {
            Ok(_) => "ok",
            Err(error) if error.is_clients() => "client_error",
            Err(_) => {
                self.totals.failed_upload();
                "error"
            }
        };
        self.counted.ended(result, elapsed.as_secs_f64());
        if result != "client_error"
            && let Some(statsd) = &self.statsd
        {
            statsd.upload(result == "ok", elapsed.as_millis() as u64);
        }
    }
}

/// Logs a failed request once, here where it is answered.
fn note(error: RequestError, path: &str, request_id: &RequestId) -> Answer {
    let status = error.status().as_u16();
    if error.is_clients() {
        tracing::debug!(%request_id, path, status, %error, "request refused");
    } else {
        tracing::warn!(%request_id, path, status, %error, "request failed");
    }
    error.answer()
}

fn unknown_url(method: &Method, path: &str) -> Answer {
    let hint = "blobs are read by /<shard>:<key>";
    reply::error(StatusCode::NOT_FOUND, format!("Unknown url for {method}: /{path} ({hint})"))
}

/// `<shard>:<key>`, the key being everything after the first colon. `None` where that is not its form.
fn address(path: &str) -> Option<Result<(ShardId, Key), RequestError>> {
    let (shard, key) = path.split_once(':')?;
    if shard.contains(['/', '?']) {
        return None;
    }
    let bad = |error: &dyn std::fmt::Display| RequestError::Bad(error.to_string());
    let read = || {
        let shard = shard.parse().map_err(|error| bad(&error))?;
        let key = key.parse().map_err(|error| bad(&error))?;
        Ok((shard, key))
    };
    Some(read())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_colon_ends_the_shard() {
        let (shard, key) = address("photos-a:x:y?z=:").unwrap().unwrap();
        assert_eq!((shard.as_str(), key.as_str()), ("photos-a", "x:y?z=:"));
        assert!(address("hi.txt").is_none());
        assert!(address("a/b:c").is_none());
        assert!(address("x?y=1:2").is_none());
        assert!(address("1:").unwrap().is_err());
        assert!(address(":a").unwrap().is_err());
        assert!(address("1:../a").unwrap().is_err());
    }
}
