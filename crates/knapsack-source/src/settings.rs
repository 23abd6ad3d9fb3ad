//! The environment, looked at once: where the hub is, where its cache is, which token opens it.
//!
//! The variables and their meaning are those of Python's `huggingface_hub`, so that both share one cache and one login.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// The public hub.
pub(crate) const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// Folder of the notes, with the version of their format.
pub(crate) const STATE_FOLDER: &str = "sources-v1";

/// Everything that this crate takes from outside the manifest.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address of the hub, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The hub cache, shared with Python (`HF_HUB_CACHE`, `HF_HOME`).
    pub cache: PathBuf,
    /// Knapsack's own cache, for notes about that one: verified files, last uses, known lockfiles.
    pub state: PathBuf,
    /// Opens private and gated repositories (`HF_TOKEN`, `HF_TOKEN_PATH`, `$HF_HOME/token`).
    pub token: Option<Token>,
    /// Never touch the network (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Certificates to trust instead of Mozilla's (`SSL_CERT_FILE`, `REQUESTS_CA_BUNDLE`, `CURL_CA_BUNDLE`).
    pub certificates: Option<PathBuf>,
    /// Files downloaded at once.
    pub workers: usize,
    /// How long to wait, and how often to try again.
    pub patience: Patience,
}

/// Timeouts and retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the address of a host name.
    pub resolve: Duration,
    /// For a connection.
    pub connect: Duration,
    /// For the first byte of an answer.
    pub answer: Duration,
    /// For the next byte of a body (`HF_HUB_DOWNLOAD_TIMEOUT`).
    pub stall: Duration,
    /// Failures in a row, without a new byte, until a file is given up.
    pub attempts: u32,
    /// Pause after the first failure; doubles with each further one.
    pub pause: Duration,
    /// Longest pause, and the longest `Retry-After` that is waited for.
    pub longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            resolve: Duration::from_secs(2),
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            attempts: 6,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(300),
        }
    }
}

/// An access token. Its text is written into one request header and nowhere else.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Checks that the text can stand in a header. The error does not repeat it.
    pub fn new(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        match text.bytes().all(|byte| byte.is_ascii_graphic()) && !text.is_empty() && text.len() <= 4096 {
            true => Ok(Self(text.to_owned())),
            false => Err("a token is one line of printable ASCII characters without spaces"),
        }
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Settings {
    /// Settings for a hub at `endpoint` with its cache at `cache` and Knapsack's own at `state`; no token, nothing from the
    /// environment.
    pub fn new(endpoint: &str, cache: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: cache.into(),
            state: state.into(),
            token: None,
            offline: false,
            certificates: None,
            workers: 4,
            patience: Patience::default(),
        }
    }

    /// Settings from this process's environment. `state` is Knapsack's own cache.
    pub fn from_env(state: impl Into<PathBuf>) -> Result<Self> {
        Self::from_lookup(&|name| std::env::var_os(name), state)
    }

    /// Settings from any environment.
    pub(crate) fn from_lookup(lookup: &dyn Fn(&str) -> Option<OsString>, state: impl Into<PathBuf>) -> Result<Self> {
        let env = Environment { lookup };
        let endpoint = env.text("HF_ENDPOINT")?.unwrap_or_else(|| PUBLIC_ENDPOINT.to_owned());
        check_endpoint(&endpoint).map_err(|reason| Error::Setting { name: "HF_ENDPOINT", reason })?;
        let home = env.hub_home()?;
        let cache = match env.path("HF_HUB_CACHE").or_else(|| env.path("HUGGINGFACE_HUB_CACHE")) {
            Some(cache) => cache,
            None => home.join("hub"),
        };
        let mut settings = Self::new(&endpoint, cache, state);
        settings.offline = env.switch("HF_HUB_OFFLINE") || env.switch("TRANSFORMERS_OFFLINE");
        if !env.switch("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            settings.token = env.token(&home)?;
        }
        settings.certificates =
            ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].iter().find_map(|name| env.path(name));
        if let Some(seconds) = env.text("HF_HUB_DOWNLOAD_TIMEOUT")? {
            let seconds = seconds.trim().parse::<u64>().ok().filter(|seconds| (1..=86_400).contains(seconds));
            let reason = "expected whole seconds, 1 or more".to_owned();
            let seconds = seconds.ok_or(Error::Setting { name: "HF_HUB_DOWNLOAD_TIMEOUT", reason })?;
            settings.patience.stall = Duration::from_secs(seconds);
        }
        Ok(settings)
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    let Some(rest) = rest else { return Err(format!("{endpoint:?} does not begin with https:// or http://")) };
    match rest.trim_end_matches('/') {
        host if host.is_empty() || host.contains(['@', '?', '#', ' ']) => {
            Err(format!("{endpoint:?} is not an address"))
        }
        _ => Ok(()),
    }
}

struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Environment<'_> {
    fn text(&self, name: &'static str) -> Result<Option<String>> {
        let Some(value) = (self.lookup)(name).filter(|value| !value.is_empty()) else { return Ok(None) };
        let reason = "it is not UTF-8".to_owned();
        value.into_string().map(Some).map_err(|_| Error::Setting { name, reason })
    }

    /// A path, with `~` standing for the home folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from((self.lookup)(name).filter(|value| !value.is_empty())?);
        match (path.strip_prefix("~"), self.home()) {
            (Ok(rest), Some(home)) => Some(home.join(rest)),
            _ => Some(path),
        }
    }

    fn switch(&self, name: &str) -> bool {
        let value = (self.lookup)(name).map(|value| value.to_string_lossy().to_ascii_lowercase());
        value.is_some_and(|value| matches!(value.as_str(), "1" | "on" | "yes" | "true"))
    }

    fn home(&self) -> Option<PathBuf> {
        let variable = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        (self.lookup)(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn hub_home(&self) -> Result<PathBuf> {
        if let Some(home) = self.path("HF_HOME") {
            return Ok(home);
        }
        let cache = self.path("XDG_CACHE_HOME").or_else(|| self.home().map(|home| home.join(".cache")));
        let reason = "neither it nor the home folder is set, so there is no place for the cache".to_owned();
        cache.map(|cache| cache.join("huggingface")).ok_or(Error::Setting { name: "HF_HOME", reason })
    }

    fn token(&self, home: &Path) -> Result<Option<Token>> {
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name)?.filter(|text| !text.trim().is_empty()) {
                return Token::new(&text)
                    .map(Some)
                    .map_err(|reason| Error::Setting { name, reason: reason.to_owned() });
            }
        }
        let path = self.path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Io { action: "read the token file", path, source }),
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        let setting = |reason: &str| Error::Setting { name: "HF_TOKEN_PATH", reason: reason.to_owned() };
        Token::new(&text).map(Some).map_err(setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Settings::from_lookup(&lookup, "/state")
    }

    #[test]
    fn folders_follow_the_python_library() {
        let home = if cfg!(windows) { "USERPROFILE" } else { "HOME" };
        let cache = |pairs: &[(&str, &str)]| settings(pairs).unwrap().cache;
        assert_eq!(cache(&[(home, "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[(home, "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[(home, "/u"), ("HF_HOME", "~/hf"), ("XDG_CACHE_HOME", "/x")]), Path::new("/u/hf/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
        assert!(matches!(settings(&[]), Err(Error::Setting { name: "HF_HOME", .. })));
    }

    #[test]
    fn tokens_come_from_variable_or_file_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_fromfile\n").unwrap();
        let hub_home = folder.path().to_str().unwrap();
        let token = |pairs: &[(&str, &str)]| settings(pairs).unwrap().token;
        assert_eq!(token(&[("HF_HOME", hub_home)]), Some(Token("hf_fromfile".into())));
        assert_eq!(
            token(&[("HF_HOME", "/none"), ("HF_TOKEN_PATH", file.to_str().unwrap())]),
            Some(Token("hf_fromfile".into()))
        );
        assert_eq!(token(&[("HF_HOME", hub_home), ("HF_TOKEN", " hf_env\n")]), Some(Token("hf_env".into())));
        assert_eq!(token(&[("HF_HOME", hub_home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_HOME", "/none")]), None);

        let shown = format!("{:?}", settings(&[("HF_HOME", "/none"), ("HF_TOKEN", "hf_secret")]).unwrap());
        assert!(shown.contains("Token(hidden)") && !shown.contains("hf_secret"), "{shown}");
        let error = settings(&[("HF_HOME", "/none"), ("HF_TOKEN", "hf_secret\r\nX-Injected: 1")]).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hf_secret"));
    }

    #[test]
    fn other_variables_are_checked() {
        let with = |name, value| settings(&[("HF_HOME", "/none"), (name, value)]);
        assert!(with("HF_HUB_OFFLINE", "True").unwrap().offline);
        assert!(!with("HF_HUB_OFFLINE", "0").unwrap().offline);
        assert_eq!(with("HF_ENDPOINT", "https://hub.example/").unwrap().endpoint, "https://hub.example");
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "7").unwrap().patience.stall, Duration::from_secs(7));
        for (name, value) in [
            ("HF_ENDPOINT", "file:///etc"),
            ("HF_ENDPOINT", "https://user:word@hub.example"),
            ("HF_ENDPOINT", "https://"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
        ] {
            assert!(
                matches!(with(name, value), Err(Error::Setting { name: found, .. }) if found == name),
                "{name}={value}"
            );
        }
    }
}
