//! The struct of these tests, as in `classic.h`.

use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const WORDS: usize = 1_002;

#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Data {
    /// The client's, left alone by the server.
    pub number: u32,
    pub seed: u32,
    /// The server's: process id.
    pub server: u32,
    /// The server's: number of the request that it took; written last.
    pub answered: u32,
    /// The server's: of the words that came, times `seed`.
    pub sum: u64,
    pub words: [u32; WORDS],
}

impl Data {
    pub fn request(number: u32, seed: u32) -> Self {
        let words = std::array::from_fn(|at| seed + at as u32);
        Self { number, seed, server: 0, answered: 0, sum: 0, words }
    }

    pub fn sum(&self) -> u64 {
        self.words.iter().map(|word| u64::from(*word)).sum::<u64>() * u64::from(self.seed)
    }

    /// Whether it is the answer to this request.
    pub fn answers(&self, request: &Self) -> bool {
        self.number == request.number
            && self.answered == request.number
            && self.seed == request.seed
            && self.server != 0
            && self.sum == request.sum()
    }
}
