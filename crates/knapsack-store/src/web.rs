//! Any server that answers GET, HEAD, PUT and DELETE below an address.

use crate::client::{Answer, Client, failure, shown};
use crate::lent::is_loopback;
use crate::sign::escape;
use crate::{Patience, variable};
use knapsack_bundle::cache::{Object, Store, StoreError};
use std::ffi::OsString;
use std::fmt;
use ureq::http::{Request, Uri, header};

pub(crate) struct Web {
    client: Client,
    /// Without `/` at the end.
    base: String,
    /// Sent with every request, as signatures are.
    query: Option<String>,
    token: Option<String>,
    /// For messages: no query.
    place: String,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Web").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Web {
    pub(crate) fn open(
        address: &str,
        lookup: &dyn Fn(&str) -> Option<OsString>,
        patience: Patience,
    ) -> Result<Self, StoreError> {
        let wrong = || StoreError::new("it is not an address that can be used");
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(StoreError::new("credentials do not belong into the address: set KNAPSACK_CACHE_TOKEN"));
        }
        let scheme = uri.scheme_str().unwrap_or("https");
        let base = format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/'));
        let token = variable(lookup, "KNAPSACK_CACHE_TOKEN");
        if token.is_some() && scheme == "http" && !is_loopback(authority.host()) {
            return Err(StoreError::new("KNAPSACK_CACHE_TOKEN is not sent over http: use https"));
        }
        Ok(Self {
            client: Client::new(&base, patience),
            query: uri.query().map(str::to_owned),
            token,
            place: shown(&uri),
            base,
        })
    }

    fn send(&self, method: &str, name: &str, only_new: bool, body: &[u8], limit: u64) -> Result<Answer, StoreError> {
        let question = self.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let request = || {
            let address = format!("{}/{}{question}", self.base, escape(name, true));
            let mut request = Request::builder().method(method).uri(address);
            if let Some(token) = &self.token {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if only_new {
                request = request.header(header::IF_NONE_MATCH, "*");
            }
            request.body(body.to_vec()).map_err(|_| StoreError::new("a name or the token cannot be sent"))
        };
        self.client.send(limit, &request)
    }

    fn failure(&self, name: &str, answer: &Answer, is_write: bool) -> StoreError {
        failure(&format!("{}/{name}", self.place.trim_end_matches('/')), answer, is_write)
    }
}

impl Store for Web {
    fn get(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let answer = self.send("GET", name, false, b"", limit)?;
        match answer.status {
            200 => Ok(Some(answer.body)),
            404 | 410 => Ok(None),
            _ => Err(self.failure(name, &answer, false)),
        }
    }

    fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let answer = self.send("HEAD", name, false, b"", 0)?;
        match answer.status {
            200 => Ok(answer.headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok()?.parse().ok())),
            404 | 410 => Ok(None),
            _ => Err(self.failure(name, &answer, false)),
        }
    }

    fn put(&self, name: &str, bytes: &[u8], only_new: bool) -> Result<bool, StoreError> {
        let mut answer = self.send("PUT", name, only_new, bytes, 0)?;
        if only_new && answer.status == 501 {
            answer = self.send("PUT", name, false, bytes, 0)?;
        }
        match answer.status {
            200 | 201 | 204 => Ok(true),
            409 | 412 if only_new => Ok(false),
            _ => Err(self.failure(name, &answer, true)),
        }
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let answer = self.send("DELETE", name, false, b"", 0)?;
        match answer.status {
            200 | 202 | 204 | 404 | 410 => Ok(()),
            _ => Err(self.failure(name, &answer, true)),
        }
    }

    fn list(&self, _prefix: &str) -> Result<Vec<Object>, StoreError> {
        Err(StoreError::new("a store behind plain HTTP cannot list what it holds"))
    }
}
