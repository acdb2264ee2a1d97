//! Which storage serves under the id of each server. A comparison says nothing of one that took over since: it may be empty.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::many::all;
use crate::{
    cluster::{MapStore, STORAGES, StoreError},
    model::ServerId,
};

/// The storages by their servers; servers without any (nginx, the original's nodes) are left out.
pub(super) type Storages = BTreeMap<ServerId, String>;

/// Reads those of these servers.
pub(super) async fn read(
    store: &dyn MapStore,
    servers: impl Iterator<Item = &ServerId>,
) -> Result<Storages, StoreError> {
    let ask = |server: &ServerId| {
        let (server, path) = (server.clone(), format!("{STORAGES}/{server}"));
        async move { Ok::<_, StoreError>((server, store.get(&path).await?)) }
    };
    let answers = all(servers.map(ask)).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(answers.into_iter().filter_map(|(server, entry)| Some((server, id(&entry?.data)?))).collect())
}

fn id(document: &Bytes) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    document.get("storage")?.as_str().map(str::to_owned)
}
