//! PUT and DELETE of a blob.

use std::time::Instant;

use http::{HeaderMap, StatusCode, header};

use super::{
    Node,
    conditions::{self, Intent, Verdict},
    head,
    refusal::Refusal,
};
use crate::{
    http::{Answer, RequestBody, headers, reply, verify::Expected},
    model::{Key, Meta, Version},
    storage::{Before, BlobWriter, Found, NewBlob, StorageError, Written},
};

/// Takes a blob. Nothing of it is visible before its last byte came, matched what was announced, and is durable.
pub async fn put(
    node: &Node,
    key: &Key,
    headers: &HeaderMap,
    body: &mut RequestBody,
) -> Result<Answer, Refusal> {
    if headers.contains_key(header::CONTENT_RANGE) {
        return Err(Refusal::PartialPut);
    }
    let expected = Expected::from_headers(headers)?;
    let version = version(node, headers)?;
    let meta = Meta::from_headers(headers)?;
    check_conditions(node, key, headers).await?;
    let blob = NewBlob { key: key.clone(), version, meta, length: body.announced() };
    let mut writer = node.storage.create(blob).await?;
    receive(node, &mut *writer, body, expected).await?;
    // Somebody may have written meanwhile. What is written between this look and the commit is not seen: a condition
    // guards against what happened before, not against a race.
    check_conditions(node, key, headers).await?;
    let started = Instant::now();
    let written = writer.commit().await?;
    node.metrics.commit_seconds.record(started.elapsed());
    node.metrics.puts.add_bytes(written.length);
    let status = match written.before {
        Before::Nothing | Before::OlderTombstone => StatusCode::CREATED,
        Before::Older { .. } => StatusCode::NO_CONTENT,
        Before::Newer(_) => StatusCode::OK,
    };
    let mut answer = answer(node, status, version, &written);
    headers::set(answer.headers_mut(), headers::CHECKSUM, written.checksum);
    Ok(answer)
}

async fn receive(
    node: &Node,
    writer: &mut dyn BlobWriter,
    body: &mut RequestBody,
    expected: Expected,
) -> Result<(), Refusal> {
    let mut verifier = expected.verifier();
    while let Some(bytes) = body.next().await? {
        node.metrics.received_bytes.increment(bytes.len() as u64);
        verifier.update(&bytes);
        writer.write(bytes).await?;
    }
    Ok(verifier.finish(writer.checksum())?)
}

/// Leaves a tombstone, whether or not the key holds something: an older blob may still be on its way here.
pub async fn delete(node: &Node, key: &Key, headers: &HeaderMap) -> Result<Answer, Refusal> {
    let version = version(node, headers)?;
    check_conditions(node, key, headers).await?;
    let written = node.storage.delete(key, version).await?;
    let status = match written.before {
        Before::Newer(held) if held > version => StatusCode::OK,
        _ => StatusCode::NO_CONTENT,
    };
    Ok(answer(node, status, version, &written))
}

/// The version the request brings, or a new one.
fn version(node: &Node, headers: &HeaderMap) -> Result<Version, Refusal> {
    let Some(value) = headers.get(headers::VERSION) else { return Ok(node.clock.next()) };
    let version = String::from_utf8_lossy(value.as_bytes()).parse()?;
    if node.clock.follow(version) { Ok(version) } else { Err(Refusal::FarFuture(version)) }
}

async fn check_conditions(node: &Node, key: &Key, headers: &HeaderMap) -> Result<(), Refusal> {
    if !conditions::any(headers) {
        return Ok(());
    }
    let held = match node.storage.open(key).await {
        Ok(Some(Found::Blob(blob))) => Some(blob.info().version),
        Ok(Some(Found::Tombstone(_)) | None) => None,
        // What cannot be read cannot be said to fulfil a condition.
        Err(StorageError::Damaged(_)) => return Err(Refusal::Precondition(None)),
        Err(error) => return Err(error.into()),
    };
    match conditions::check(headers, Intent::Write, held) {
        Verdict::Proceed => Ok(()),
        Verdict::Failed | Verdict::NotModified => Err(Refusal::Precondition(held)),
    }
}

/// Says what the key holds now, how many bytes are gone for it, and how far the versions of all keys are.
fn answer(node: &Node, status: StatusCode, version: Version, written: &Written) -> Answer {
    let mut answer = reply::empty(status);
    let held = match written.before {
        Before::Newer(held) => held,
        Before::Nothing | Before::Older { .. } | Before::OlderTombstone => version,
    };
    head::write_version(held, answer.headers_mut());
    if let Some(last) = node.clock.last() {
        headers::set(answer.headers_mut(), headers::CLOCK, last);
    }
    if let Before::Older { length } = written.before {
        headers::set(answer.headers_mut(), headers::REPLACED, length);
    }
    answer
}
