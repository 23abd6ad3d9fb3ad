//! Azurite, which stands in for Azure: an npm package of Microsoft's, where `KNAPSACK_TEST_AZURITE` names its folder.

use super::chain::hmac;
use super::*;
use crate::lent::peer::lookup;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const ACCOUNT: &str = "devstoreaccount1";
/// Azurite's own, which its documentation publishes.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

struct Azurite {
    server: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Azurite {
    fn start() -> Option<Self> {
        let Some(package) = std::env::var_os("KNAPSACK_TEST_AZURITE") else {
            // Not by `eprintln!`, which the test harness holds back.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: KNAPSACK_TEST_AZURITE names no folder of the npm package azurite"
            );
            assert!(std::env::var_os("KNAPSACK_REQUIRE_STORES").is_none(), "KNAPSACK_REQUIRE_STORES is set");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Command::new("node")
            .arg(Path::new(&package).join("dist/src/blob/main.js"))
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.try_wait().unwrap();
            assert!(ended.is_none() && start.elapsed() < Duration::from_secs(120), "azurite does not start: {ended:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(Self { server, port, _folder: folder })
    }

    fn open(&self, place: &str, secret: &str) -> Azure {
        let endpoint = format!("http://127.0.0.1:{}/{ACCOUNT}", self.port);
        let text = format!("AccountName={ACCOUNT};BlobEndpoint={endpoint};{secret}");
        let patience = Patience { pause: Duration::from_millis(5), ..Patience::default() };
        Azure::open(place, &lookup(&[("AZURE_STORAGE_CONNECTION_STRING", &text)]), patience).unwrap()
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A signature of the account's for everything, as its key makes it:
/// <https://learn.microsoft.com/rest/api/storageservices/create-account-sas>.
fn signature(permissions: &str) -> String {
    let text = format!("{ACCOUNT}\n{permissions}\nb\nsco\n\n2099-01-01T00:00:00Z\n\nhttps,http\n{VERSION}\n\n");
    let pairs = [
        ("sp", permissions),
        ("ss", "b"),
        ("srt", "sco"),
        ("se", "2099-01-01T00:00:00Z"),
        ("spr", "https,http"),
        ("sv", VERSION),
        ("sig", &hmac(KEY, &text).unwrap()),
    ];
    query(&pairs)
}

#[test]
fn azurite_is_a_store_by_key_and_by_signature() {
    let Some(azurite) = Azurite::start() else { return };
    let key = azurite.open("team/some folder/caf\u{e9}", &format!("AccountKey={KEY}"));
    let answer = key.send("PUT", "/team", &[("restype", "container")], &[], b"", 100).unwrap();
    assert_eq!(answer.status, 201, "{}", String::from_utf8_lossy(&answer.body));
    let signed = format!("SharedAccessSignature={}", signature("rwdlac"));
    for store in [key, azurite.open("team/other", &signed)] {
        assert_eq!(store.get("a/b", 10).unwrap(), None);
        assert_eq!(store.size("a/b").unwrap(), None);
        assert!(store.put("a/b", b"one", true).unwrap());
        assert!(!store.put("a/b", b"two", true).unwrap(), "it was there");
        assert_eq!(store.get("a/b", 10).unwrap().unwrap(), b"one");
        assert_eq!(store.get("a/b", 1).unwrap().unwrap().len(), 2, "one byte more tells that it is longer");
        assert!(store.put("a/b", b"three", false).unwrap());
        assert_eq!(store.size("a/b").unwrap(), Some(5));
        assert!(store.put("empty", b"", false).unwrap());
        assert_eq!(store.size("empty").unwrap(), Some(0));
        for number in 0..3 {
            store.put(&format!("many & more/{number}"), &[b'x'; 7], false).unwrap();
        }
        let listed = store.list("many & more/").unwrap();
        let names: Vec<_> = listed.iter().map(|object| (object.name.as_str(), object.size)).collect();
        assert_eq!(names, [("many & more/0", 7), ("many & more/1", 7), ("many & more/2", 7)]);
        assert!(listed[0].modified.unwrap().elapsed().unwrap() < Duration::from_secs(600));
        store.delete("a/b").unwrap();
        store.delete("a/b").unwrap();
        assert_eq!(store.size("a/b").unwrap(), None);
    }
    let absent = azurite.open("absent", &format!("AccountKey={KEY}")).get("x", 1).unwrap_err().problem;
    assert!(absent.contains("no such container") && !absent.contains("Eby8"), "{absent}");
    let read_only = azurite.open("team", &format!("SharedAccessSignature={}", signature("rl")));
    let refused = read_only.put("x", b"x", false).unwrap_err();
    assert!(refused.read_only && !refused.problem.contains("sig="), "{refused:?}");
    let forged = azurite.open("team", "AccountKey=d3Jvbmc=").get("x", 1).unwrap_err().problem;
    assert!(forged.contains("403") && !forged.contains("d3Jvbmc"), "{forged}");
}
