//! Models that a package leaves to be downloaded: fetched at their first use as the app on a phone would, into a folder of
//! the cache, by the same settings as every other download of this program (`HF_ENDPOINT`, token, certificates, proxies).

use crate::report::Reporter;
use anyhow::Context;
use indicatif::BinaryBytes;
use knapsack_artifact::app_config::AppModel;
use knapsack_bundle::Cache;
use knapsack_runtime::CancelFlag;
use knapsack_runtime::download::{Body, DownloadProgress, Store, Transport, TransportError};
use knapsack_source::{Addresses, Error, Retry, Settings};
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The store in `folder`, or where the cache has it.
///
/// # Errors
/// An environment that cannot be used.
pub fn store(folder: Option<&Path>) -> anyhow::Result<Store> {
    let cache = Cache::place(|name| std::env::var_os(name))?;
    let transport = HubTransport(Addresses::new(Settings::from_env(&cache)?)?);
    let folder = folder.map_or_else(|| cache.join("downloads-v1"), Path::to_owned);
    Ok(Store::new(folder, Arc::new(transport)))
}

/// The weight folder of a model that is not part of the package, downloaded first if it is not there.
///
/// # Errors
/// A download that fails; the next call goes on where it ended.
pub fn weights(store: &Store, model: &AppModel, reporter: &Reporter) -> anyhow::Result<PathBuf> {
    if let Some(folder) = store.folder(model) {
        return Ok(folder);
    }
    let id = &model.model_id;
    reporter.status("Downloading", format_args!("{id}, {}", BinaryBytes(store.missing_bytes(model))));
    let bar = reporter.bytes_bar("Downloading", model.files.iter().map(|file| file.size).sum());
    let start = Instant::now();
    let progress = |progress: DownloadProgress| bar.set_position(progress.done);
    let folder = store.ensure(model, &progress, &CancelFlag::new());
    bar.finish_and_clear();
    let folder = folder.with_context(|| format!("{id} is not in the package and cannot be downloaded"))?;
    reporter.status("Downloaded", format_args!("{id} in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(folder)
}

/// The downloader of the runtime, fetching like every other download of this program.
struct HubTransport(Addresses);

impl Transport for HubTransport {
    fn get(&self, url: &str, from: u64) -> Result<Body, TransportError> {
        match self.0.get(url, from) {
            Ok(body) => Ok(Body { start: body.start, reader: body.reader }),
            Err(error) => Err(transport_error(&error)),
        }
    }
}

fn transport_error(error: &Error) -> TransportError {
    let told = || error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    match (error.retry(), error) {
        (_, Error::Status { status, .. }) => TransportError::Status(*status),
        (Retry::After(wait), _) => TransportError::Limited(wait),
        // The runtime's own pauses begin shorter than a limit of requests lasts.
        (_, Error::RateLimited { .. }) => TransportError::Limited(Duration::from_secs(1)),
        (Retry::Backoff, _) => TransportError::Connection(told()),
        (Retry::Never, _) => TransportError::Refused(told()),
    }
}
