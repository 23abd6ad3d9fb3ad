//! How fast this machine reads memory: what the speed of decoding is held against.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

/// Places that a thread reads at by turns: from one alone, memory gives two thirds of what it can.
const STREAMS: usize = 8;
/// A line of the cache.
type Line = [u64; 8];

/// Bytes per second that `threads` threads read `parts` with, all of them once: the best of `passes`. Each should be larger than
/// the caches.
pub fn read_bandwidth(parts: &[&[u8]], threads: usize, passes: usize) -> f64 {
    let total: usize = parts.iter().map(|part| part.len()).sum();
    let pass = || {
        let start = Instant::now();
        thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for part in parts {
                        let step = part.len() / threads;
                        black_box(sum(&part[thread * step..(thread + 1) * step]));
                    }
                });
            }
        });
        total as f64 / start.elapsed().as_secs_f64()
    };
    (0..passes).map(|_| pass()).fold(0.0, f64::max)
}

/// The sum of all words, less a rest at the end.
fn sum(bytes: &[u8]) -> u64 {
    let lines: &[[u8; size_of::<Line>()]] = bytes.as_chunks().0;
    let step = lines.len() / STREAMS;
    let mut sums = [[0u64; 8]; STREAMS];
    for at in 0..step {
        for (stream, sums) in sums.iter_mut().enumerate() {
            let line: Line = bytemuck::pod_read_unaligned(&lines[stream * step + at]);
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(word);
            }
        }
    }
    sums.iter().flatten().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_are_read() {
        let bytes: Vec<u8> = bytemuck::cast_slice(&(1..=64u64 * 3).collect::<Vec<_>>()).to_vec();
        assert_eq!(sum(&bytes), 192 * 193 / 2);
        assert!(read_bandwidth(&[&bytes, &bytes], 2, 2) > 0.0);
    }
}
