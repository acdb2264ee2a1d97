//! The users of a plan: each does one thing after the other, and all that was asked and answered is recorded.

use std::{sync::Arc, time::Duration};

use backpack::{
    client::PutBody,
    http::{Body, headers},
    model::Version,
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use turmoil::net::TcpStream;

use super::{
    cluster::{Cluster, Held},
    hasty,
    network::PORT,
    plan::{Act, Step},
};

/// A user gives up after this: longer than any coordinator needs that is alive and reached.
const PATIENCE: Duration = Duration::from_secs(25);

/// Users send bytes in parts of that size.
const PART: usize = 4 << 10;

/// Everything that users did, in the order in which it began.
pub type Record = Arc<Mutex<History>>;

#[derive(Default)]
pub struct History {
    pub deeds: Vec<Deed>,
    /// What was wrong at the moment of an answer.
    pub lies: Vec<String>,
    moments: u64,
}

impl History {
    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// What a step means now; nothing where nothing was acknowledged yet.
    fn settled(&self, step: Step) -> Option<Step> {
        if !step.of_last {
            return Some(step);
        }
        let uploads = self.deeds.iter().filter(|deed| matches!(deed.step.act, Act::Put { .. }));
        let acknowledged =
            uploads.filter_map(|deed| Some((deed.ended(), deed.acknowledged()?.0, &deed.step.key)));
        let (_, shard, key) = acknowledged.max()?;
        Some(Step { key: key.clone(), act: Act::Get { shard }, ..step })
    }
}

/// One request of a user.
pub struct Deed {
    pub step: Step,
    /// The bytes that an upload sends.
    pub bytes: Bytes,
    /// When it began: a number that grows with everything that begins or ends.
    pub began: u64,
    /// When the last of these bytes left.
    pub sent: Option<Duration>,
    /// When the answer was there, and what it said; `None` while there is none.
    pub answer: Option<(u64, Answer)>,
}

impl Deed {
    /// What it was acknowledged as, where it changed something: shard, version, and the copies that there must be then.
    pub fn acknowledged(&self) -> Option<(usize, Version, usize)> {
        let (_, answer) = self.answer.as_ref()?;
        let written = match self.step.act {
            Act::Put { .. } | Act::Broken { .. } => answer.status == StatusCode::OK,
            Act::Delete { .. } => answer.status == StatusCode::NO_CONTENT,
            Act::Get { .. } => false,
        };
        written.then(|| {
            let version = answer.version.unwrap();
            let copies = answer.copies.unwrap().0 - usize::from(self.believed_a_lie());
            (answer.shard.unwrap(), version, copies)
        })
    }

    /// A server said that it is stored, and nobody could know better.
    pub fn believed_a_lie(&self) -> bool {
        let version = self.answer.as_ref().and_then(|(_, answer)| answer.version);
        version.is_some_and(|version| hasty::crossed(version, self.sent))
    }

    /// When it was answered; later than everything if it was not.
    pub fn ended(&self) -> u64 {
        self.answer.as_ref().map_or(u64::MAX, |(ended, _)| *ended)
    }
}

/// What a coordinator said.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// The number of the shard, counted from 0: of an upload what was answered, else what was asked.
    pub shard: Option<usize>,
    pub version: Option<Version>,
    /// Copies that there are, of how many.
    pub copies: Option<(usize, usize)>,
    pub body: Bytes,
}

/// Does all steps of one user.
pub async fn behave(user: usize, steps: Vec<Step>, cluster: Cluster, record: Record) {
    for (number, step) in steps.into_iter().enumerate() {
        tokio::time::sleep(step.pause).await;
        let Some(step) = record.lock().settled(step) else { continue };
        let bytes = bytes_of(&step, &format!("{user}.{number};"));
        let place = {
            let mut history = record.lock();
            let began = history.moment();
            history.deeds.push(Deed {
                step: step.clone(),
                bytes: bytes.clone(),
                began,
                sent: None,
                answer: None,
            });
            history.deeds.len() - 1
        };
        cluster
            .trace
            .note(format_args!("#{place} {} {:?} by coordinator-{}", step.key, step.act, step.coordinator));
        let sent = || record.lock().deeds[place].sent = turmoil::sim_elapsed();
        let asked = tokio::time::timeout(PATIENCE, ask(&step, bytes, sent)).await;
        let answer = asked.map_err(|_| "no answer".to_owned()).flatten();
        cluster.trace.note(format_args!("#{place} {}", described(&answer)));
        let Ok(answer) = answer else { continue };
        let mut history = record.lock();
        let ended = history.moment();
        history.deeds[place].answer = Some((ended, answer));
        if let Some(lie) = lie(&cluster, &history.deeds[place]) {
            history.lies.push(format!("#{place} {lie}"));
        }
    }
}

/// Whether fewer servers hold the write, or a newer one, than the answer says.
fn lie(cluster: &Cluster, deed: &Deed) -> Option<String> {
    let (step, (shard, version, copies)) = (&deed.step, deed.acknowledged()?);
    let (said, of) = deed.answer.as_ref()?.1.copies?;
    let held = cluster.held(shard, &step.key);
    let has = |(place, held): (usize, &Held)| (held.version() >= Some(version)).then_some(place);
    let have: Vec<_> = held.iter().enumerate().filter_map(has).collect();
    if have.len() < copies || of != held.len() {
        let have = have.len();
        return Some(format!("says {said}/{of} copies of {version}, but {have} servers hold it: {held:?}"));
    }
    // Readers do not ask it yet, or soon no more.
    let is_upload = !matches!(step.act, Act::Delete { .. });
    let alone = is_upload && copies == said && have.iter().all(|place| cluster.is_on_its_way(shard, *place));
    alone.then(|| format!("{version} is only on a server that is on its way into shard {shard} or out of it"))
}

fn bytes_of(step: &Step, name: &str) -> Bytes {
    let bytes = match step.act {
        Act::Put { bytes, .. } | Act::Broken { bytes, .. } => bytes,
        _ => return Bytes::new(),
    };
    let mut all = name.repeat(bytes / name.len() + 1).into_bytes();
    all.truncate(bytes);
    all.into()
}

fn described(answer: &Result<Answer, String>) -> String {
    match answer {
        Err(error) => error.clone(),
        Ok(Answer { status, shard, version, copies, body }) => {
            let version = version.map_or_else(String::new, |version| version.to_string());
            let said = if status.is_success() {
                format!("{} bytes", body.len())
            } else {
                String::from_utf8_lossy(body).into_owned()
            };
            format!("-> {} shard {shard:?} {version} {copies:?} {said}", status.as_u16())
        }
    }
}

/// Says when the last of the bytes left.
async fn ask(step: &Step, bytes: Bytes, sent: impl Fn()) -> Result<Answer, String> {
    let host = format!("coordinator-{}", step.coordinator);
    let stream = TcpStream::connect((host, PORT)).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error: hyper::Error| error.to_string())?;
    tokio::spawn(async move {
        // Its error is the request's too.
        let _ = connection.await;
    });
    let (request, feed) = request(step, bytes);
    let feed = async {
        feed.await;
        sent();
    };
    let (response, ()) = tokio::join!(sender.send_request(request), feed);
    let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let copies = head.headers.get(headers::COPIES).and_then(|copies| {
        let (have, of) = copies.to_str().ok()?.split_once('/')?;
        Some((have.parse().ok()?, of.parse().ok()?))
    });
    let shard = match step.act {
        Act::Delete { shard, .. } | Act::Get { shard } => Some(shard),
        Act::Put { .. } | Act::Broken { .. } => answered_shard(&body),
    };
    let version = headers::get(&head.headers, headers::VERSION);
    Ok(Answer { status: head.status, shard, version, copies, body })
}

fn answered_shard(body: &[u8]) -> Option<usize> {
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let number: usize = answer["shard_id"].as_str()?.parse().ok()?;
    Some(number - 1)
}

/// The request, and what feeds its body.
fn request(step: &Step, bytes: Bytes) -> (Request<Body>, impl Future<Output = ()>) {
    let (method, path, level) = match step.act {
        Act::Put { level, .. } => (Method::PUT, format!("/{}", step.key), Some(level)),
        Act::Broken { .. } => (Method::PUT, format!("/{}", step.key), None),
        Act::Delete { shard, level } => (Method::DELETE, format!("/{}:{}", shard + 1, step.key), Some(level)),
        Act::Get { shard } => (Method::GET, format!("/{}:{}", shard + 1, step.key), None),
    };
    let announced = match step.act {
        Act::Put { announced: false, .. } | Act::Broken { announced: false, .. } => None,
        // The rest never comes.
        Act::Broken { .. } => Some(bytes.len() as u64 + 1),
        _ => Some(bytes.len() as u64),
    };
    let is_upload = method == Method::PUT;
    let (sender, body) = PutBody::channel(announced);
    let body = if is_upload { body } else { Body::Empty };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    headers::set(request.headers_mut(), http::header::HOST, "backpack");
    if let Some(level) = level {
        headers::set(request.headers_mut(), headers::WRITE, level);
    }
    let whole = matches!(step.act, Act::Put { .. });
    let (lull, half) = (step.lull, if step.lull.is_zero() { 0 } else { bytes.len() / 2 });
    let feed = async move {
        let (first, rest) = bytes.split_at(half);
        let parts = first.chunks(PART).map(|part| (part, Duration::ZERO));
        let rest = rest.chunks(PART).enumerate();
        let rest = rest.map(|(number, part)| (part, if number == 0 { lull } else { Duration::ZERO }));
        for (part, pause) in parts.chain(rest).filter(|_| is_upload) {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            if !sender.send(Bytes::copy_from_slice(part)).await {
                return;
            }
        }
        if whole {
            sender.end().await;
        }
    };
    (request, feed)
}
