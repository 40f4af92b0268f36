//! What the simulated kernel keeps: descriptors, sockets, memory, names. No scheduling here.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use super::rng::Rng;
use super::world::Process;
use crate::shm::{ReleaseId, Told};

/// What a descriptor refers to. Mappings and instance locks are kept in the same table.
pub(crate) enum Object {
    Socket {
        pair: u64,
        side: usize,
    },
    Listener {
        path: PathBuf,
        backlog: VecDeque<u64>,
    },
    Poller {
        watched: Vec<Watched>,
    },
    Waker {
        woken: bool,
    },
    PidFd(usize),
    Release {
        watched: Vec<(u32, u64)>,
        told: VecDeque<Told>,
        next: u32,
    },
    Memory(u64),
    /// Memory's maker asks by it what others have of the memory, and keeps it alive.
    Hold(u64),
    Mapping(u64),
    Lock(PathBuf),
}

pub(crate) struct Fd {
    pub(crate) process: usize,
    pub(crate) object: Object,
}

#[derive(Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) fd: u64,
    pub(crate) token: u64,
    /// Arrivals that an edge-triggered watch has told of; `None` for a level-triggered one.
    pub(crate) told: Option<u64>,
}

pub(crate) struct Message {
    pub(crate) bytes: Vec<u8>,
    pub(crate) memory: Option<u64>,
}

/// Two connected sockets; side 0 connected, side 1 was accepted.
pub(crate) struct Pair {
    /// What each side has still to read.
    pub(crate) queues: [VecDeque<Message>; 2],
    pub(crate) open: [bool; 2],
    pub(crate) shut: bool,
    pub(crate) process: [usize; 2],
    pub(crate) arrivals: [u64; 2],
}

/// A piece of shared memory. It is freed with the world, so that a stray access is met by poison,
/// not by somebody else's data.
pub(crate) struct Region {
    start: *mut u8,
    layout: std::alloc::Layout,
    pub(crate) payload: bool,
    references: usize,
    /// How many of the references are holds.
    holds: usize,
}

// SAFETY: a region is plain memory that belongs to no thread.
unsafe impl Send for Region {}

#[derive(Clone, Copy, Default)]
pub(crate) struct Readiness {
    pub(crate) readable: bool,
    pub(crate) closed: bool,
}

impl Readiness {
    pub(crate) fn any(self) -> bool {
        self.readable || self.closed
    }
}

pub(crate) struct Kernel {
    pub(crate) fds: BTreeMap<u64, Fd>,
    pub(crate) pairs: BTreeMap<u64, Pair>,
    pub(crate) regions: BTreeMap<u64, Region>,
    /// Socket files; `None` when nobody listens any more.
    pub(crate) paths: BTreeMap<PathBuf, Option<u64>>,
    /// Something happened that a wait may depend on.
    pub(crate) changed: bool,
    /// Messages that a socket holds.
    pub(crate) queue_max: usize,
    /// Connections that a listener holds.
    pub(crate) backlog_max: usize,
    next: u64,
    burials: VecDeque<(usize, Option<u64>)>,
}

impl Kernel {
    pub(crate) fn new(rng: &mut Rng) -> Kernel {
        Kernel {
            fds: BTreeMap::new(),
            pairs: BTreeMap::new(),
            regions: BTreeMap::new(),
            paths: BTreeMap::new(),
            changed: false,
            queue_max: rng.pick(&[2, 4, 16, 200]),
            backlog_max: rng.pick(&[1, 2, 64]),
            next: 1,
            burials: VecDeque::new(),
        }
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Gives `process` a descriptor.
    pub(crate) fn open(&mut self, process: usize, object: Object) -> u64 {
        if let Object::Memory(region) | Object::Mapping(region) | Object::Hold(region) = &object {
            let it = self.regions.get_mut(region).expect("known memory");
            it.references += 1;
            it.holds += usize::from(matches!(object, Object::Hold(_)));
        }
        let fd = self.id();
        self.fds.insert(fd, Fd { process, object });
        fd
    }

    pub(crate) fn object(&mut self, fd: u64) -> &mut Object {
        &mut self.fds.get_mut(&fd).expect("an open descriptor").object
    }

    /// Closes a descriptor; `killed`: its process had no time to tidy up.
    pub(crate) fn close(&mut self, fd: u64, killed: bool) {
        let Some(Fd { object, .. }) = self.fds.remove(&fd) else { return };
        self.changed = true;
        for other in self.fds.values_mut() {
            if let Object::Poller { watched } = &mut other.object {
                watched.retain(|watched| watched.fd != fd);
            }
        }
        match object {
            Object::Socket { pair, side } => self.hang_up(pair, side),
            Object::Listener { path, backlog } => {
                for pair in backlog {
                    self.hang_up(pair, 1);
                }
                if self.paths.get(&path) == Some(&Some(fd)) {
                    if killed {
                        self.paths.insert(path, None);
                    } else {
                        self.paths.remove(&path);
                    }
                }
            }
            Object::Memory(region) | Object::Mapping(region) => self.release(region),
            Object::Hold(region) => {
                self.regions.get_mut(&region).expect("known memory").holds -= 1;
                self.release(region);
            }
            Object::Poller { .. }
            | Object::Waker { .. }
            | Object::PidFd(_)
            | Object::Release { .. }
            | Object::Lock(_) => {}
        }
    }

    fn hang_up(&mut self, pair: u64, side: usize) {
        let Some(it) = self.pairs.get_mut(&pair) else { return };
        it.open[side] = false;
        let unread = std::mem::take(&mut it.queues[side]);
        if it.open == [false; 2] {
            self.pairs.remove(&pair);
        }
        for message in unread {
            if let Some(region) = message.memory {
                self.release(region);
            }
        }
    }

    /// Makes memory of zeros that nobody holds yet.
    pub(crate) fn allocate(&mut self, len: usize, payload: bool) -> u64 {
        let layout = std::alloc::Layout::from_size_align(len, super::PAGE).expect("a real size");
        // SAFETY: the size isn't zero; callers check that.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!start.is_null(), "memory for the simulation");
        let id = self.id();
        self.regions.insert(id, Region { start, layout, payload, references: 0, holds: 0 });
        id
    }

    pub(crate) fn keep(&mut self, region: u64) {
        self.regions.get_mut(&region).expect("known memory").references += 1;
    }

    pub(crate) fn release(&mut self, region: u64) {
        let it = self.regions.get_mut(&region).expect("known memory");
        it.references -= 1;
        let is_gone = it.references == 0;
        if is_gone {
            // SAFETY: nobody maps it any more, and it is freed with the world only.
            unsafe { it.start.write_bytes(0xdb, it.layout.size()) };
        }
        for fd in self.fds.values_mut() {
            if let Object::Release { watched, told, .. } = &mut fd.object {
                watched.retain(|(id, watched)| {
                    if *watched == region {
                        let id = ReleaseId(*id);
                        told.push_back(if is_gone { Told::Gone(id) } else { Told::Closed(id) });
                    }
                    *watched != region || !is_gone
                });
            }
        }
    }

    /// Whether nobody has any of it but by holds.
    pub(crate) fn is_only_held(&self, region: u64) -> bool {
        let region = &self.regions[&region];
        region.references == region.holds
    }

    /// Address and length of memory.
    pub(crate) fn memory(&self, region: u64) -> (*mut u8, usize) {
        let region = &self.regions[&region];
        (region.start, region.layout.size())
    }

    /// Bytes of memory that somebody holds.
    pub(crate) fn bytes_held(&self) -> usize {
        let held = self.regions.values().filter(|region| region.references > 0);
        held.map(|region| region.layout.size()).sum()
    }

    pub(crate) fn pair(&mut self, processes: [usize; 2]) -> u64 {
        let id = self.id();
        let pair = Pair {
            queues: Default::default(),
            open: [true; 2],
            shut: false,
            process: processes,
            arrivals: [0; 2],
        };
        self.pairs.insert(id, pair);
        id
    }

    pub(crate) fn socket(&mut self, fd: u64) -> (&mut Pair, usize) {
        let Some(Fd { object: Object::Socket { pair, side }, .. }) = self.fds.get(&fd) else {
            panic!("{fd} is not a socket");
        };
        (self.pairs.get_mut(pair).expect("one end is open"), *side)
    }

    /// Whether shared memory lies at an address.
    pub(crate) fn is_shared(&self, address: usize) -> bool {
        let holds = |region: &Region| {
            (region.start.addr()..region.start.addr() + region.layout.size()).contains(&address)
        };
        self.regions.values().any(holds)
    }

    pub(crate) fn readiness(&self, fd: u64, processes: &[Process]) -> Readiness {
        let Some(fd) = self.fds.get(&fd) else { return Readiness::default() };
        let readable = match &fd.object {
            Object::Socket { pair, side } => {
                let pair = &self.pairs[pair];
                let closed = pair.shut || !pair.open[1 - side];
                return Readiness { readable: closed || !pair.queues[*side].is_empty(), closed };
            }
            Object::Listener { backlog, .. } => !backlog.is_empty(),
            Object::Waker { woken } => *woken,
            Object::PidFd(process) => processes[*process].dead,
            Object::Release { told, .. } => !told.is_empty(),
            Object::Poller { watched } => {
                watched.iter().any(|watched| self.event(*watched, processes).is_some())
            }
            Object::Memory(_) | Object::Mapping(_) | Object::Hold(_) | Object::Lock(_) => false,
        };
        Readiness { readable, closed: false }
    }

    fn arrivals(&self, fd: u64) -> u64 {
        match self.fds.get(&fd).map(|fd| &fd.object) {
            Some(Object::Socket { pair, side }) => self.pairs[pair].arrivals[*side],
            // So that an edge is told again when a further source of a poller has something.
            Some(Object::Poller { watched }) => {
                let ends = |fd| match self.fds.get(&fd).map(|fd| &fd.object) {
                    Some(Object::Socket { pair, side }) => {
                        let pair = &self.pairs[pair];
                        u64::from(pair.shut || !pair.open[1 - side])
                    }
                    Some(Object::Waker { woken }) => u64::from(*woken),
                    _ => 0,
                };
                watched.iter().fold(0u64, |mixed, watched| {
                    let news = self.arrivals(watched.fd) * 2 + ends(watched.fd);
                    (mixed ^ news ^ watched.fd << 32).wrapping_mul(0x0100_0000_01b3)
                })
            }
            _ => 0,
        }
    }

    pub(crate) fn is_writable(&self, fd: u64) -> bool {
        let Some(Fd { object: Object::Socket { pair, side }, .. }) = self.fds.get(&fd) else {
            return true;
        };
        let pair = &self.pairs[pair];
        pair.shut || !pair.open[1 - side] || pair.queues[1 - side].len() < self.queue_max
    }

    pub(crate) fn has_events(&self, poller: u64, processes: &[Process]) -> bool {
        let Some(Fd { object: Object::Poller { watched }, .. }) = self.fds.get(&poller) else {
            return true;
        };
        watched.iter().any(|watched| self.event(*watched, processes).is_some())
    }

    fn event(&self, watched: Watched, processes: &[Process]) -> Option<Readiness> {
        let readiness = self.readiness(watched.fd, processes);
        let fresh = watched.told.is_none_or(|told| told != self.arrivals(watched.fd));
        (readiness.any() && (fresh || readiness.closed)).then_some(readiness)
    }

    /// The events of a poller, as they would be told now.
    pub(crate) fn events(&mut self, poller: u64, processes: &[Process]) -> Vec<super::Event> {
        let Object::Poller { watched } = self.object(poller) else { panic!("not a poller") };
        let mut list = std::mem::take(watched);
        let mut events = Vec::new();
        for watched in &mut list {
            if let Some(Readiness { readable, closed }) = self.event(*watched, processes) {
                events.push(super::Event { token: watched.token, readable, closed });
                watched.told = watched.told.map(|_| self.arrivals(watched.fd));
            }
        }
        let Object::Poller { watched } = self.object(poller) else { panic!("not a poller") };
        *watched = list;
        events
    }

    pub(crate) fn takes_connections(&self, listener: u64) -> bool {
        match self.fds.get(&listener).map(|fd| &fd.object) {
            Some(Object::Listener { backlog, .. }) => backlog.len() < self.backlog_max,
            _ => true,
        }
    }

    /// The process that holds an instance lock.
    pub(crate) fn holder(&self, path: &Path) -> Option<usize> {
        let mut fds = self.fds.values();
        let held = fds.find(|fd| matches!(&fd.object, Object::Lock(it) if it == path));
        held.map(|fd| fd.process)
    }

    /// Plans the end of what a killed process had: its memory first, as the kernel does, then the
    /// descriptors in any order, and last the word that it is dead.
    pub(crate) fn bury(&mut self, process: usize, rng: &mut Rng) {
        let theirs = self.fds.iter().filter(|(_, fd)| fd.process == process);
        let mut fds: Vec<(bool, u64, u64)> = theirs
            .map(|(id, fd)| (!matches!(fd.object, Object::Mapping(_)), rng.number(), *id))
            .collect();
        fds.sort_unstable();
        self.burials.extend(fds.into_iter().map(|(_, _, fd)| (process, Some(fd))));
        self.burials.push_back((process, None));
    }

    pub(crate) fn next_burial(&mut self) -> Option<(usize, Option<u64>)> {
        self.burials.pop_front()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for region in self.regions.values() {
            // SAFETY: allocated with this layout, freed nowhere else; the world has ended.
            unsafe { std::alloc::dealloc(region.start, region.layout) };
        }
    }
}
