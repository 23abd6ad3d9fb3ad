//! Bodies that must arrive at a least rate: a server that drips keeps nobody waiting for ever.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Bytes a second below which a connection is given up. A modem was faster.
const LEAST_RATE: u64 = 1024;

/// A reader that fails with [`TooSlow`] when less than [`LEAST_RATE`] comes for `window`. Only time spent waiting counts, not what
/// the caller does between reads.
pub(crate) struct Paced<R> {
    reader: R,
    window: Duration,
    waited: Duration,
    bytes: u64,
}

/// The body came too slowly.
#[derive(Debug, thiserror::Error)]
#[error("less than {LEAST_RATE} bytes a second came")]
pub(crate) struct TooSlow;

impl<R: Read> Paced<R> {
    pub(crate) fn new(reader: R, window: Duration) -> Self {
        Self { reader, window, waited: Duration::ZERO, bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let count = self.reader.read(buffer)?;
        self.waited += start.elapsed();
        self.bytes += count as u64;
        if self.waited >= self.window {
            let slow = (self.bytes as f64) < LEAST_RATE as f64 * self.waited.as_secs_f64();
            if slow && count > 0 {
                return Err(io::Error::new(io::ErrorKind::TimedOut, TooSlow));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(count)
    }
}

/// Whether a failure to read was one of [`Paced`].
pub(crate) fn is_too_slow(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooSlow>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `piece` bytes after each pause.
    struct Drip {
        piece: usize,
        pause: Duration,
    }

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(self.pause);
            Ok(self.piece.min(buffer.len()))
        }
    }

    #[test]
    fn a_drip_ends_and_a_stream_goes_on() {
        let window = Duration::from_millis(30);
        let mut buffer = [0; 4096];
        let mut drip = Paced::new(Drip { piece: 1, pause: Duration::from_millis(5) }, window);
        let error = (0..100).find_map(|_| drip.read(&mut buffer).err()).expect("it ends");
        assert!(is_too_slow(&error));
        let mut stream = Paced::new(Drip { piece: 4096, pause: Duration::from_millis(1) }, window);
        assert!((0..100).all(|_| stream.read(&mut buffer).is_ok()));
    }

    #[test]
    fn what_the_caller_does_in_between_does_not_count() {
        let mut reader = Paced::new(Drip { piece: 1, pause: Duration::ZERO }, Duration::from_millis(20));
        for _ in 0..5 {
            assert_eq!(reader.read(&mut [0]).unwrap(), 1);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
