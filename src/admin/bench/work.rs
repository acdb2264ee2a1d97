//! One request about one blob: what is sent, and when its answer is right.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{
    blobs::{Blobs, Content},
    failure::{Failure, Kind},
    placed::Placed,
    wire::{Ask, Place, Wire},
};
use crate::model::WriteLevel;

/// An answer to an upload is a line of JSON; more of it is not kept.
const MAX_ANSWER_BYTES: usize = 4096;

/// What is done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It is uploaded.
    Put,
    /// It is read.
    Get,
    /// It is deleted.
    Delete,
}

impl Verb {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "PUT",
            Self::Get => "GET",
            Self::Delete => "DELETE",
        }
    }
}

/// What all requests of a run share.
pub struct Work {
    /// The blobs.
    pub blobs: Blobs,
    /// Where they are.
    pub placed: Placed,
    /// Where they are uploaded and deleted.
    pub write_to: Arc<Place>,
    /// Where they are read.
    pub read_from: Arc<Place>,
    /// Copies to wait for.
    pub write: Option<WriteLevel>,
    /// Whether all bytes are compared.
    pub verify: bool,
}

impl Work {
    /// A connection for such requests.
    pub fn wire(&self, verb: Verb) -> Wire {
        Wire::new(if verb == Verb::Get { self.read_from.clone() } else { self.write_to.clone() })
    }

    /// Sends one request and reads its answer. The bytes of the blob.
    pub async fn request(&self, verb: Verb, number: u32, wire: &mut Wire) -> Result<u64, Failure> {
        match verb {
            Verb::Put => self.put(number, wire).await,
            Verb::Get => self.get(number, wire).await,
            Verb::Delete => self.delete(number, wire).await,
        }
    }

    async fn put(&self, number: u32, wire: &mut Wire) -> Result<u64, Failure> {
        let body = self.blobs.content(number);
        let bytes = body.len();
        let path = format!("/{}", self.blobs.key(number));
        let ask = Ask { method: Method::PUT, path, body, write: self.write };
        let mut answer: Vec<u8> = Vec::new();
        wire.ask(
            &ask,
            |status| status.is_success(),
            |part| {
                let room = MAX_ANSWER_BYTES.saturating_sub(answer.len());
                answer.extend_from_slice(&part[..part.len().min(room)]);
                Ok(())
            },
        )
        .await?;
        self.placed.stored(number, &answer);
        Ok(bytes)
    }

    async fn get(&self, number: u32, wire: &mut Wire) -> Result<u64, Failure> {
        let path = self.placed.path(number, &self.blobs.key(number));
        let ask = Ask { method: Method::GET, path, body: Content::empty(), write: None };
        let mut expected = self.blobs.content(number);
        let length = expected.len();
        let mut received = 0;
        let verify = self.verify;
        wire.ask(
            &ask,
            |status| status == StatusCode::OK,
            |part| {
                received += part.len() as u64;
                if received > length {
                    return Err(Failure::new(Kind::WrongLength, format!("more than {length} bytes")));
                }
                match verify && !expected.goes_on_with(part) {
                    true => {
                        Err(Failure::new(Kind::WrongBytes, format!("before byte {received} of {length}")))
                    }
                    false => Ok(()),
                }
            },
        )
        .await?;
        match received == length {
            true => Ok(length),
            false => Err(Failure::new(Kind::WrongLength, format!("{received} of {length} bytes"))),
        }
    }

    async fn delete(&self, number: u32, wire: &mut Wire) -> Result<u64, Failure> {
        let path = self.placed.path(number, &self.blobs.key(number));
        let ask = Ask { method: Method::DELETE, path, body: Content::empty(), write: None };
        let gone = |status: StatusCode| {
            status.is_success() || status == StatusCode::NOT_FOUND || status == StatusCode::GONE
        };
        wire.ask(&ask, gone, |_| Ok(())).await?;
        self.placed.deleted(number);
        Ok(self.blobs.size(number))
    }
}
