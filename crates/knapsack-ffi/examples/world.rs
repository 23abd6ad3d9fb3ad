//! What the tests of the Swift package and of the Kotlin library run against: a package of the tiny assistant and a hub that
//! misbehaves on demand.
//!
//!   world FOLDER
//!
//! Prints one `name=value` for each line, then serves until its input ends. `GET <control>/lose?times=N` cuts the next N
//! answers short, `/down` answers 503 from then on, `/back` behaves again, `/slow` pauses after every piece of a file.

#[path = "../tests/support/mod.rs"]
mod support;

use knapsack_testkit::hub::Fault;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

fn main() {
    let folder = std::path::PathBuf::from(std::env::args_os().nth(1).expect("a folder"));
    let world = support::world(&folder);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("model={}", support::MODEL);
    println!("bundle={}", world.bundle.display());
    println!("remote={}", world.remote.display());
    println!("library={}", world.library.display());
    println!("tools={}", support::TOOLS_MODEL);
    println!("tools_bundle={}", world.tools_bundle.display());
    println!("tools_library={}", world.tools_library.display());
    println!("control=http://{}", listener.local_addr().expect("a bound port"));
    println!("ready=1");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut first = String::new();
            let _ = reader.read_line(&mut first);
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            match first.split([' ', '?']).nth(1) {
                Some("/lose") => {
                    let times = first.split("times=").nth(1).and_then(|t| t.split(' ').next()?.parse().ok());
                    world.hub.fault("storage", Fault::CutAfter(100_000), times.unwrap_or(1));
                }
                Some("/down") => world.hub.fault("", Fault::Status(503), u32::MAX),
                Some("/slow") => world.hub.pause(Some(Duration::from_millis(50))),
                _ => {
                    world.hub.clear_faults();
                    world.hub.pause(None);
                }
            }
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
