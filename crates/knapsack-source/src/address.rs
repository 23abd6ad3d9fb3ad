//! Files by their address, as an app config names them: for what is downloaded outside the hub cache.

use std::fmt;
use std::io::Read;
use std::sync::atomic::AtomicBool;

use crate::error::{Error, Result};
use crate::http::{Client, shown};
use crate::hub::Hub;
use crate::location::RepoId;
use crate::progress::Silent;
use crate::settings::{PUBLIC_ENDPOINT, Settings};

/// GETs files by their address, by the same settings as every other download: hub or mirror, token, certificates, proxies,
/// timeouts. The token goes to the hub alone.
pub struct Addresses {
    client: Client,
    settings: Settings,
}

/// The bytes of a file as they arrive.
pub struct Body {
    /// Where in the file they start: what was asked for, or 0 when the server does not do ranges.
    pub start: u64,
    /// They themselves.
    pub reader: Box<dyn Read + Send>,
}

impl Addresses {
    /// A client by these settings.
    ///
    /// # Errors
    /// An endpoint or certificates that cannot be used.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { client: Client::new(&settings)?, settings })
    }

    /// GETs `url`, from byte `from` when that is not 0. What lies on the public hub is asked of the hub of the settings.
    ///
    /// # Errors
    /// Settings that forbid the network, and every answer but success.
    pub fn get(&self, url: &str, from: u64) -> Result<Body> {
        let Settings { endpoint, .. } = &self.settings;
        let url = match url.strip_prefix(PUBLIC_ENDPOINT).filter(|rest| rest.starts_with('/')) {
            Some(rest) => format!("{endpoint}{rest}"),
            None => url.to_owned(),
        };
        if self.settings.offline {
            return Err(Error::OfflineAddress { url: shown(&url) });
        }
        let answer = self.client.get(&url, from).map_err(|error| self.explain(error, &url))?;
        if answer.header("content-encoding").is_some_and(|encoding| !encoding.trim().eq_ignore_ascii_case("identity")) {
            let reason = "it is compressed, which was not asked for".to_owned();
            return Err(Error::BadAnswer { url: answer.url, reason });
        }
        let start = if answer.status == 206 { answer.range_start().map_or(from, |(first, _)| first) } else { 0 };
        Ok(Body { start, reader: Box::new(answer.into_reader()) })
    }

    /// Says what a refusal of the hub means, as for every other download.
    fn explain(&self, error: Error, url: &str) -> Error {
        let path = url.strip_prefix(&self.settings.endpoint).and_then(|rest| rest.strip_prefix('/'));
        let repository = path.and_then(|path| RepoId::parse(path.split_once("/resolve/")?.0).ok());
        let Some(repository) = repository else { return error };
        let stop = AtomicBool::new(false);
        let hub = Hub { client: &self.client, settings: &self.settings, stop: &stop, progress: &Silent };
        hub.explain(error, &repository, &shown(url))
    }
}

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses").field("settings", &self.settings).finish_non_exhaustive()
    }
}
