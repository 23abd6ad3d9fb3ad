//! MD5 of many files at once. One MD5 is a chain of dependent operations and runs at some 0.5 GB/s whatever the processor; sixteen
//! independent ones side by side fill its vector units. The function is RFC 1321's.

/// Streams that are hashed side by side.
pub(crate) const LANES: usize = 16;

/// The states of all lanes.
type State = [[u32; LANES]; 4];
/// A block of each lane: word by word, those of all lanes side by side.
type Words = [[u32; LANES]; 16];

const INITIAL: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// Where the bytes of one lane come from.
pub(crate) trait Source {
    /// Why reading fails.
    type Error;
    /// How many there are.
    fn size(&self) -> u64;
    /// Fills the beginning of `buffer` and says how much; less than all of it only at the end.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error>;
}

/// Bytes that are read at once for a lane; a multiple of a block.
const BUFFER: usize = 32 << 10;
const BLOCK: usize = 64;
/// Blocks of a lane that are laid side by side at once: as many as stay in the first-level cache.
const AT_ONCE: usize = 16;

struct Lane<S> {
    source: S,
    /// What was read and not yet hashed is at `start..end`; both are multiples of a block.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the source so far.
    length: u64,
    /// Whether the padding is in the buffer.
    finished: bool,
}

impl<S: Source> Lane<S> {
    fn new(source: S) -> Self {
        Lane { source, buffer: vec![0; BUFFER + 2 * BLOCK], start: 0, end: 0, length: 0, finished: false }
    }

    /// Bytes that are not hashed yet, more or less.
    fn left(&self) -> u64 {
        self.source.size().saturating_sub(self.length)
    }

    /// Blocks that are ready; 0 when the whole source was hashed.
    fn ready(&mut self) -> Result<usize, S::Error> {
        if self.start == self.end && !self.finished {
            let read = self.source.read(&mut self.buffer[..BUFFER])?;
            (self.start, self.end) = (0, read);
            self.length += read as u64;
            if read < BUFFER {
                self.pad();
            }
        }
        Ok((self.end - self.start) / BLOCK)
    }

    /// Takes as many blocks as there are `words`, as lane `index`. One word after the other: an instruction that scatters them takes longer.
    #[inline(never)]
    fn turn(&mut self, index: usize, words: &mut [Words]) {
        let blocks = self.buffer[self.start..].as_chunks::<BLOCK>().0;
        for (block, words) in blocks.iter().zip(&mut *words) {
            for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
                word[index] = u32::from_le_bytes(*bytes);
            }
        }
        self.start += words.len() * BLOCK;
    }

    /// A one bit, zeros, and the length in bits, up to a whole block.
    fn pad(&mut self) {
        let end = (self.end + 9).next_multiple_of(BLOCK);
        self.buffer[self.end..end].fill(0);
        self.buffer[self.end] = 0x80;
        self.buffer[end - 8..end].copy_from_slice(&self.length.wrapping_mul(8).to_le_bytes());
        (self.end, self.finished) = (end, true);
    }
}

/// Hashes every source that `next` gives, with the number it gives for it, and hands each digest to `done`. `next` is told how many
/// bytes the longest source at work has left (without any, more than there are): what is not longer costs no time of its own.
///
/// # Errors
/// The first error of a source.
pub(crate) fn hash_all<S: Source>(
    mut next: impl FnMut(u64) -> Option<(usize, S)>,
    mut done: impl FnMut(usize, [u8; 16]),
) -> Result<(), S::Error> {
    let mut lanes: [Option<(usize, Lane<S>)>; LANES] = std::array::from_fn(|_| None);
    let mut state: State = [[0; LANES]; 4];
    let mut words = vec![[[0; LANES]; 16]; AT_ONCE];
    loop {
        let mut blocks = usize::MAX;
        let longest = lanes.iter().flatten().map(|(_, lane)| lane.left()).max();
        for (index, lane) in lanes.iter_mut().enumerate() {
            loop {
                if let Some((number, current)) = lane {
                    let ready = current.ready()?;
                    if ready > 0 {
                        blocks = blocks.min(ready);
                        break;
                    }
                    done(*number, digest(&state, index));
                    *lane = None;
                }
                match next(longest.unwrap_or(u64::MAX)) {
                    None => break,
                    Some((number, source)) => {
                        *lane = Some((number, Lane::new(source)));
                        for (word, initial) in state.iter_mut().zip(INITIAL) {
                            word[index] = initial;
                        }
                    }
                }
            }
        }
        if blocks == usize::MAX {
            return Ok(());
        }
        while blocks > 0 {
            let words = &mut words[..blocks.min(AT_ONCE)];
            for (index, lane) in lanes.iter_mut().enumerate() {
                if let Some((_, lane)) = lane {
                    lane.turn(index, words);
                }
            }
            pulp::Arch::new().dispatch(Blocks { words, state: &mut state });
            blocks -= words.len();
        }
    }
}

/// Some blocks of every lane, compiled once for each instruction set.
struct Blocks<'a> {
    words: &'a [Words],
    state: &'a mut State,
}

impl pulp::WithSimd for Blocks<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<V: pulp::Simd>(self, _: V) {
        for words in self.words {
            compress(self.state, words);
        }
    }
}

fn digest(state: &State, lane: usize) -> [u8; 16] {
    let mut digest = [0; 16];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word[lane].to_le_bytes();
    }
    digest
}

/// Four steps with the same function, the four registers taking turns.
macro_rules! four {
    ($f:expr, $a:ident $b:ident $c:ident $d:ident, $m:ident $l:ident, $s:expr, $k:expr, $g:expr) => {
        $a = step($f($b, $c, $d), $a, $b, $m[$g[0]][$l], $s[0], $k[0]);
        $d = step($f($a, $b, $c), $d, $a, $m[$g[1]][$l], $s[1], $k[1]);
        $c = step($f($d, $a, $b), $c, $d, $m[$g[2]][$l], $s[2], $k[2]);
        $b = step($f($c, $d, $a), $b, $c, $m[$g[3]][$l], $s[3], $k[3]);
    };
}

#[inline(always)]
fn step(f: u32, a: u32, b: u32, m: u32, s: u32, k: u32) -> u32 {
    b.wrapping_add(a.wrapping_add(f).wrapping_add(m).wrapping_add(k).rotate_left(s))
}

/// One block of each lane. The steps are written out so that the loop over the lanes is the innermost one and becomes vectors.
#[inline(always)]
fn compress(state: &mut State, m: &Words) {
    let f1 = |b: u32, c: u32, d: u32| d ^ (b & (c ^ d));
    let f2 = |b: u32, c: u32, d: u32| c ^ (d & (b ^ c));
    let f3 = |b: u32, c: u32, d: u32| b ^ c ^ d;
    let f4 = |b: u32, c: u32, d: u32| c ^ (b | !d);
    const S1: [u32; 4] = [7, 12, 17, 22];
    const S2: [u32; 4] = [5, 9, 14, 20];
    const S3: [u32; 4] = [4, 11, 16, 23];
    const S4: [u32; 4] = [6, 10, 15, 21];
    for l in 0..LANES {
        let (mut a, mut b, mut c, mut d) = (state[0][l], state[1][l], state[2][l], state[3][l]);
        four!(f1, a b c d, m l, S1, [0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee], [0, 1, 2, 3]);
        four!(f1, a b c d, m l, S1, [0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501], [4, 5, 6, 7]);
        four!(f1, a b c d, m l, S1, [0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be], [8, 9, 10, 11]);
        four!(f1, a b c d, m l, S1, [0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821], [12, 13, 14, 15]);
        four!(f2, a b c d, m l, S2, [0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa], [1, 6, 11, 0]);
        four!(f2, a b c d, m l, S2, [0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8], [5, 10, 15, 4]);
        four!(f2, a b c d, m l, S2, [0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed], [9, 14, 3, 8]);
        four!(f2, a b c d, m l, S2, [0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a], [13, 2, 7, 12]);
        four!(f3, a b c d, m l, S3, [0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c], [5, 8, 11, 14]);
        four!(f3, a b c d, m l, S3, [0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70], [1, 4, 7, 10]);
        four!(f3, a b c d, m l, S3, [0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05], [13, 0, 3, 6]);
        four!(f3, a b c d, m l, S3, [0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665], [9, 12, 15, 2]);
        four!(f4, a b c d, m l, S4, [0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039], [0, 7, 14, 5]);
        four!(f4, a b c d, m l, S4, [0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1], [12, 3, 10, 1]);
        four!(f4, a b c d, m l, S4, [0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1], [8, 15, 6, 13]);
        four!(f4, a b c d, m l, S4, [0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391], [4, 11, 2, 9]);
        state[0][l] = state[0][l].wrapping_add(a);
        state[1][l] = state[1][l].wrapping_add(b);
        state[2][l] = state[2][l].wrapping_add(c);
        state[3][l] = state[3][l].wrapping_add(d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use md5::{Digest, Md5};

    struct Bytes(std::io::Cursor<Vec<u8>>);

    impl Source for Bytes {
        type Error = std::io::Error;

        fn size(&self) -> u64 {
            self.0.get_ref().len() as u64
        }

        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            std::io::Read::read(&mut self.0, buffer)
        }
    }

    #[test]
    fn digests_are_those_of_the_md5_crate() {
        // Every length around a block and around a buffer, more of them than there are lanes.
        let lengths: Vec<usize> =
            (0..200).chain(BUFFER - 70..BUFFER + 70).chain([3 * BUFFER, 5 * BUFFER + 1, 1_000_003]).collect();
        let data = |length: usize| (0..length).map(|i| (i * 31 + length) as u8).collect::<Vec<_>>();
        let mut queue = lengths.iter().enumerate();
        let mut found = vec![None; lengths.len()];
        let next = |_| queue.next().map(|(number, &length)| (number, Bytes(std::io::Cursor::new(data(length)))));
        hash_all(next, |number, digest| found[number] = Some(digest)).unwrap();
        for (length, found) in lengths.into_iter().zip(found) {
            assert_eq!(found.unwrap()[..], Md5::digest(data(length))[..], "length {length}");
        }
    }

    /// What is longer than the rest of what is at work waits for a turn of its own.
    #[test]
    fn what_joins_is_told_how_much_is_left() {
        let mut rooms = Vec::new();
        let mut queue = [5 * BUFFER, BUFFER].into_iter().enumerate();
        let next = |room| {
            rooms.push(room);
            queue.next().map(|(number, length)| (number, Bytes(std::io::Cursor::new(vec![0; length]))))
        };
        hash_all(next, |_, _| ()).unwrap();
        rooms.dedup();
        let left = (0..5).rev().map(|buffers| (buffers * BUFFER) as u64);
        let expected: Vec<u64> = std::iter::once(u64::MAX).chain(left).collect();
        assert_eq!(rooms, expected);
    }
}
