//! A connection: what lies in shared memory, what each side keeps of it, and what its socket holds.

use callgate_proto::cell::Doorbell;
use callgate_proto::chain::{Deferred, Intake, IntakeValues, Lease, Submitter, SubmitterValues};
use callgate_proto::layout::{Cell, Detour};
use callgate_proto::snapshot::CellWords;

use super::Sent;
use crate::config::{Config, Mutant};

/// Why a client ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The kernel says that the server is gone.
    Closed,
    /// It lacks memory.
    System,
}

/// A region of payload memory with room for one payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Region {
    /// The call whose payload was written last.
    pub content: u8,
    /// Whether a payload lives there.
    pub live: bool,
    /// Whether its sender has retired it.
    pub retired: bool,
    /// Whether it was announced.
    pub told: bool,
}

/// What a look for a place found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// A region that is free.
    At(u8),
    /// None, but there may be another region.
    Grow,
    /// None.
    Full,
}

/// A message of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// Look at my next cell.
    Bell,
    /// New memory.
    Region(u8),
    /// Memory that is used no more.
    Retire(u8),
}

/// A connection: shared memory, the client's half, the server's half, the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Conn {
    /// The server's life.
    pub life: u8,
    /// Shared: the cells.
    pub cells: Vec<CellWords>,
    /// Shared: the word of the detour.
    pub detour: u64,
    /// Shared: the turn taken last.
    pub taken: u32,
    /// The worker's store of it that nobody else sees yet.
    pub buffered: Option<u32>,

    /// Client: the chain.
    pub submitter: SubmitterValues,
    /// Client: the lease.
    pub lease: u64,
    /// Client: the lock of the chain.
    pub locked: bool,
    /// Client: why it has ended.
    pub end: Option<End>,
    /// Client: calls that were given up and not answered yet.
    pub given_up: Vec<Sent>,
    /// Client: the spare region, for the next far request; or that of the caller who has the right to it.
    pub spare: Option<u8>,
    /// Client: the caller who has that right.
    pub on_spare: Option<u8>,
    /// Client: the cell of a far reply that was read and not released.
    pub unreleased: Option<u16>,
    /// Client: its regions, by id.
    pub mine: Vec<Region>,
    /// Client: retired regions of which the server has still to be told.
    pub unsent: Vec<u8>,
    /// Client: which of the server's regions it maps.
    pub maps: u16,

    /// Server: whether the worker has it.
    pub linked: bool,
    /// Server: the mark that it ends.
    pub gone: bool,
    /// Server: the chain.
    pub intake: IntakeValues,
    /// Server: cells whose calls are unanswered.
    pub deferred: u64,
    /// Server: cells with a published far reply.
    pub pinned: u16,
    /// Server: the region of the far reply of each cell, with its turn.
    pub replies: Vec<Option<(u32, u8)>>,
    /// Server: its regions, by id.
    pub theirs: Vec<Region>,
    /// Server: which of the client's regions it maps.
    pub mapped: u16,

    /// Kernel: what the server has still to read.
    pub to_server: Vec<Message>,
    /// Kernel: what the client has still to read.
    pub to_client: Vec<Message>,
    /// Kernel: hung up.
    pub shut: bool,
}

impl Conn {
    /// As a handshake leaves it: the first cell is armed for the socket.
    pub fn new(config: &Config, life: u8) -> Conn {
        let cells = config.cells;
        let intake = Intake::new(cells.into());
        let shared: Vec<Cell> = (0..cells).map(|_| Cell::default()).collect();
        let armed = intake.arm(&shared, &Detour::default(), Doorbell::Socket);
        assert!(armed.is_some(), "nothing is there yet");
        Conn {
            life,
            cells: shared.iter().map(Cell::words).collect(),
            detour: 0,
            taken: 0,
            buffered: None,
            submitter: Submitter::new(cells.into()).values(),
            lease: Lease::default().word(),
            locked: false,
            end: None,
            given_up: Vec::new(),
            spare: None,
            on_spare: None,
            unreleased: None,
            mine: Vec::new(),
            unsent: Vec::new(),
            maps: 0,
            linked: true,
            gone: false,
            intake: intake.values(),
            deferred: 0,
            pinned: 0,
            replies: vec![None; cells.into()],
            theirs: Vec::new(),
            mapped: 0,
            to_server: Vec::new(),
            to_client: Vec::new(),
            shut: false,
        }
    }

    /// Runs the protocol's code on a cell.
    pub fn on_cell<T>(&mut self, cell: u16, code: impl FnOnce(&Cell) -> T) -> T {
        let words = &mut self.cells[usize::from(cell)];
        let real = Cell::from_words(words);
        let result = code(&real);
        *words = real.words();
        result
    }

    /// Runs the protocol's code of the server's end, which may load all cells and the detour, and store nothing.
    pub fn on_intake<T>(
        &mut self,
        code: impl FnOnce(&mut Intake, &[Cell], &Detour, &Deferred) -> T,
    ) -> T {
        let cells: Vec<Cell> = self.cells.iter().map(Cell::from_words).collect();
        let detour = Detour::default();
        detour.say(self.detour);
        let mut intake = Intake::from_values(&self.intake);
        let result = code(&mut intake, &cells, &detour, &Deferred::from_first_word(self.deferred));
        self.intake = intake.values();
        for (words, cell) in self.cells.iter_mut().zip(&cells) {
            *words = cell.words();
        }
        result
    }

    /// Runs the protocol's code of the client's end.
    pub fn on_submitter<T>(&mut self, code: impl FnOnce(&mut Submitter, &Lease) -> T) -> T {
        let lease = Lease::from_word(self.lease);
        let mut submitter = Submitter::from_values(&self.submitter);
        let result = code(&mut submitter, &lease);
        self.submitter = submitter.values();
        self.lease = lease.word();
        result
    }

    /// Takes the place of the next call back, as `Submit::recall`.
    pub fn recall(&mut self, config: &Config) {
        let ended = self.on_submitter(|submitter, lease| submitter.recall(lease));
        let has_memory = self.mine.iter().any(|region| !region.retired);
        if ended.is_some() && has_memory && !config.has(Mutant::LentPlaceUnreleased) {
            self.unreleased = ended;
        }
    }

    /// Gives the region of a request back, if the connection keeps it.
    pub fn give_back(&mut self, sent: Sent) {
        if let Some(block) = sent.block {
            self.mine[usize::from(block)].live = false;
        }
    }

    /// Gives the spare region back, if no caller has it; whether there was one.
    pub fn let_go_of_spare(&mut self, config: &Config) -> bool {
        if self.on_spare.is_some() && !config.has(Mutant::SpareTakenThoughInUse) {
            return false;
        }
        let spare = self.spare.take();
        if let Some(spare) = spare {
            self.mine[usize::from(spare)].live = false;
        }
        spare.is_some()
    }

    /// Runs the protocol's code on the lease.
    pub fn on_lease<T>(&mut self, code: impl FnOnce(&Lease) -> T) -> T {
        let lease = Lease::from_word(self.lease);
        let result = code(&lease);
        self.lease = lease.word();
        result
    }

    /// A place for a payload, as `Outgoing::place`.
    pub fn place(regions: &mut [Region], most: usize, content: u8) -> Placed {
        if let Some(at) = regions.iter().position(|region| !region.live && !region.retired) {
            regions[at].content = content;
            regions[at].live = true;
            return Placed::At(at as u8);
        }
        let full = regions.iter().filter(|region| !region.retired).count() >= most;
        if full { Placed::Full } else { Placed::Grow }
    }

    /// A new region, with a payload.
    pub fn add(regions: &mut Vec<Region>, content: u8) -> u8 {
        regions.push(Region { content, live: true, retired: false, told: false });
        regions.len() as u8 - 1
    }

    /// Tells the server of retired regions, as far as its socket takes it.
    pub fn flush_retires(&mut self, config: &Config) {
        while !self.unsent.is_empty() && self.to_server.len() < config.socket {
            let at = self.unsent.remove(0);
            self.to_server.push(Message::Retire(at));
        }
    }
}
