//! The one source of randomness: counter-based streams, so that nothing has to be saved to resume.
//!
//! Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): block `i` of a
//! stream is a bijection of the counter `(i, step, rank)` under a key made from `(seed, name)`.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// A stream of random numbers that depends on `(seed, name, step, rank)` and on nothing else.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
    spare_normal: Option<f64>,
}

impl Stream {
    /// The stream called `name` of a run with `seed`, at `step`, on `rank`.
    pub fn new(seed: u64, name: &str, step: u64, rank: u32) -> Self {
        let key = mix(seed ^ hash(name));
        // The step fills two words and the rank is folded into the key's hash, so that the block
        // index keeps a whole word pair to itself even in long streams.
        let key = if rank == 0 { key } else { mix(key ^ u64::from(rank)) };
        Self {
            key: [key as u32, (key >> 32) as u32],
            counter: [0, 0, step as u32, (step >> 32) as u32],
            block: [0; 4],
            used: 4,
            spare_normal: None,
        }
    }

    /// The next 32 random bits.
    pub fn u32(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            let (low, carry) = self.counter[0].overflowing_add(1);
            self.counter[0] = low;
            self.counter[1] = self.counter[1].wrapping_add(u32::from(carry));
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// The next 64 random bits.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    /// Uniform in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn range(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Uniform in `0..n`, without bias; 0 for `n` = 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n == 0 {
            return 0;
        }
        let zone = u64::MAX - u64::MAX % n;
        loop {
            let x = self.u64();
            if x < zone {
                return (x % n) as usize;
            }
        }
    }

    /// Standard normal (Box-Muller, both halves used).
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare_normal.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare_normal = Some(radius * sin);
        radius * cos
    }

    /// Sets `count` blocks of four numbers aside, to be drawn in any order and by any thread; what is left of
    /// the present block is passed over.
    pub fn set_aside(&mut self, count: u64) -> Blocks {
        let blocks = Blocks { key: self.key, counter: self.counter };
        self.counter = blocks.at(count);
        self.used = 4;
        blocks
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// `k` of the numbers `0..n`, each set as likely, in ascending order; all of them where `k` > `n`.
    pub fn choose(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut numbers: Vec<usize> = (0..n).collect();
        let k = k.min(n);
        for i in 0..k {
            numbers.swap(i, i + self.below(n - i));
        }
        numbers.truncate(k);
        numbers.sort_unstable();
        numbers
    }
}

/// Blocks of a stream that were set aside.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    key: [u32; 2],
    counter: [u32; 4],
}

impl Blocks {
    /// The counter of block number `index`.
    fn at(&self, index: u64) -> [u32; 4] {
        let [low, high, step, rank] = self.counter;
        let place = (u64::from(high) << 32 | u64::from(low)).wrapping_add(index);
        [place as u32, (place >> 32) as u32, step, rank]
    }

    /// `N` blocks from number `first` on, side by side: word w of block i is `[w][i]`.
    #[expect(
        clippy::inline_always,
        reason = "a kernel that draws must compile this with its own instructions"
    )]
    #[inline(always)]
    pub fn side_by_side<const N: usize>(&self, first: u64) -> [[u32; N]; 4] {
        let mut words = [[0; N]; 4];
        for i in 0..N {
            for (words, counter) in words.iter_mut().zip(self.at(first + i as u64)) {
                words[i] = counter;
            }
        }
        let mut key = self.key;
        for _ in 0..10 {
            let [a, b, c, d] = words;
            for i in 0..N {
                let x = u64::from(MULTIPLIERS[0]) * u64::from(a[i]);
                let y = u64::from(MULTIPLIERS[1]) * u64::from(c[i]);
                words[0][i] = (y >> 32) as u32 ^ b[i] ^ key[0];
                words[1][i] = y as u32;
                words[2][i] = (x >> 32) as u32 ^ d[i] ^ key[1];
                words[3][i] = x as u32;
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        words
    }
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// FNV-1a of a stream's name.
fn hash(name: &str) -> u64 {
    name.bytes().fold(0xCBF2_9CE4_8422_2325, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The finaliser of `SplitMix64`: neighbouring seeds give unrelated keys.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_equals_the_known_answers_of_random123() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = u32::MAX;
        assert_eq!(
            philox([ones; 4], [ones; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn blocks_that_were_set_aside_hold_what_the_stream_would_have_drawn() {
        let mut stream = Stream::new(1, "aside", 3, 1);
        let mut drawn = stream.clone();
        let blocks = stream.set_aside(20);
        let (one, two) = (blocks.side_by_side::<8>(0), blocks.side_by_side::<16>(4));
        for place in 0..80 {
            let (block, word, want) = (place / 4, place % 4, drawn.u32());
            if block < 8 {
                assert_eq!(one[word][block], want);
            }
            if block >= 4 {
                assert_eq!(two[word][block - 4], want);
            }
        }
        assert_eq!(stream.u32(), drawn.u32());
    }

    #[test]
    fn a_stream_depends_on_each_part_of_its_name() {
        let first = |seed, name, step, rank| Stream::new(seed, name, step, rank).u64();
        let one = first(1, "crop", 2, 0);
        assert_eq!(one, first(1, "crop", 2, 0));
        for other in [
            first(2, "crop", 2, 0),
            first(1, "flip", 2, 0),
            first(1, "crop", 3, 0),
            first(1, "crop", 2, 1),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn uniform_and_normal_have_the_right_moments() {
        let mut stream = Stream::new(0, "moments", 0, 0);
        let n = 100_000;
        let uniform = (0..n).map(|_| stream.uniform()).sum::<f64>() / f64::from(n);
        let normals: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let variance = normals.iter().map(|x| x * x).sum::<f64>() / f64::from(n);
        assert!((uniform - 0.5).abs() < 0.01);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03);
    }

    #[test]
    fn chosen_numbers_are_different_ordered_and_equally_likely() {
        let mut stream = Stream::new(0, "choose", 0, 0);
        let mut times = [0; 10];
        for _ in 0..3000 {
            let chosen = stream.choose(10, 3);
            assert!(chosen.len() == 3 && chosen.windows(2).all(|pair| pair[0] < pair[1]));
            chosen.iter().for_each(|i| times[*i] += 1);
        }
        assert!(times.iter().all(|n| (780..1020).contains(n)), "{times:?}");
        assert_eq!(stream.choose(3, 9), [0, 1, 2]);
    }

    #[test]
    fn below_stays_below_and_reaches_every_value() {
        let mut stream = Stream::new(0, "below", 0, 0);
        let mut seen = [0; 7];
        for _ in 0..1000 {
            seen[stream.below(7)] += 1;
        }
        assert!(seen.iter().all(|count| *count > 80));
        assert_eq!(stream.below(0), 0);
    }
}
