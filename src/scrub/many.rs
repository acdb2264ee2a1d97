//! Many questions at the same time, but not all.

use futures_util::{StreamExt, stream};
use serde::de::DeserializeOwned;

use crate::cluster::{MapStore, StoreError};

/// Questions at the same time: a thousand short ones take moments, and nobody is flooded.
const AT_ONCE: usize = 32;

/// What comes of all of them, in no order.
pub(super) async fn all<F: Future>(questions: impl Iterator<Item = F>) -> Vec<F::Output> {
    let questions: Vec<F> = questions.collect();
    stream::iter(questions).buffer_unordered(AT_ONCE).collect().await
}

/// A document. One that is not there or cannot be read says nothing: it is the default.
pub(super) async fn read<T: DeserializeOwned + Default>(
    store: &dyn MapStore,
    path: &str,
) -> Result<T, StoreError> {
    let entry = store.get(path).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.data).ok()).unwrap_or_default())
}
