//! What each server of a shard can be asked.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{found::Who, pages::Asker};
use crate::{
    client::ServerError,
    model::{ClusterMap, Server, ServerId, Shard},
};

/// The servers of a shard, by what they can be asked.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// They list what they hold.
    pub listing: Vec<Arc<Server>>,
    /// They only answer about one key.
    pub asked: Vec<Arc<Server>>,
}

enum Kind {
    Lists(Arc<Server>),
    Answers(Arc<Server>),
    LeftOut(ServerId, String),
}

impl Survey {
    /// Asks all servers of the shard. One that is being filled lacks most, which is nobody's business but of the one who fills it:
    /// it takes part only as `filled`.
    pub async fn of(
        shard: &Shard,
        map: &ClusterMap,
        filled: Option<&ServerId>,
        asker: &Asker,
    ) -> (Self, Who) {
        let (mut survey, mut who) = (Self::default(), Who::default());
        let kinds = shard.servers.iter().map(|id| async move {
            if shard.is_joining(id) && filled != Some(id) {
                return Kind::LeftOut(id.clone(), "is being filled".to_owned());
            }
            kind(id, map, asker).await
        });
        for kind in join_all(kinds).await {
            match kind {
                Kind::Lists(server) => {
                    who.compared.insert(server.id.clone());
                    survey.listing.push(server);
                }
                Kind::Answers(server) => {
                    who.asked.insert(server.id.clone());
                    survey.asked.push(server);
                }
                Kind::LeftOut(id, why) => drop(who.left_out.insert(id, why)),
            }
        }
        (survey, who)
    }

    /// All that take part, those that list first.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.listing.iter().chain(&self.asked).cloned().collect()
    }
}

async fn kind(id: &ServerId, map: &ClusterMap, asker: &Asker) -> Kind {
    let left_out = |why: String| Kind::LeftOut(id.clone(), why);
    let Some(server) = map.servers.get(id) else { return left_out("is not in the map".to_owned()) };
    let shards = map.shards_of(id).count();
    if shards > 1 {
        return left_out(format!("holds {shards} shards and cannot tell them apart"));
    }
    match asker.servers.digest(server, None, 1, 0, &asker.id).await {
        Ok(_) => Kind::Lists(server.clone()),
        Err(ServerError::Unsupported(_)) => Kind::Answers(server.clone()),
        Err(error) => left_out(format!("does not answer: {error}")),
    }
}
