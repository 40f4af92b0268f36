//! The same objects in this process's memory, for unit tests: names, handles, waits, ends of threads.
//!
//! A *process* of the simulation is a thread. [`die`] ends it for its mutexes; its handles go as they are dropped.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex as Lock, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use super::{Any, Fault, Woken};
use crate::names::key;
use crate::options::Access;

/// What a name stands for.
enum Kind {
    Event { set: bool, resets_itself: bool },
    Mutex { owner: Option<ThreadId>, times: u32, abandoned: bool },
    Section { memory: Vec<u8>, of_a_file: bool },
}

struct Object {
    kind: Lock<Kind>,
    /// Nobody may open it.
    denied: bool,
    /// Threads that wait for it.
    waiters: AtomicU32,
}

static WORLD: Lock<Option<HashMap<String, Weak<Object>>>> = Lock::new(None);
/// Something has changed.
static CHANGED: Condvar = Condvar::new();

fn lock<T>(lock: &Lock<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(name: &str) -> Option<Arc<Object>> {
    lock(&WORLD).get_or_insert_default().get(key(name)).and_then(Weak::upgrade)
}

/// Makes an object, or opens the one of that name; tells whether it existed.
fn create(name: &str, kind: Kind, security: &Security) -> Result<(Arc<Object>, bool), Fault> {
    let mut world = lock(&WORLD);
    let world = world.get_or_insert_default();
    if let Some(object) = world.get(key(name)).and_then(Weak::upgrade) {
        let same = std::mem::discriminant(&*lock(&object.kind)) == std::mem::discriminant(&kind);
        return match (same, object.denied) {
            (true, false) => Ok((object, true)),
            (true, true) => Err(Fault::Denied),
            (false, _) => Err(Fault::WrongKind),
        };
    }
    let (kind, denied) = (Lock::new(kind), security.denies);
    let object = Arc::new(Object { kind, denied, waiters: AtomicU32::new(0) });
    world.insert(key(name).to_owned(), Arc::downgrade(&object));
    Ok((object, false))
}

fn open(name: &str, is: impl Fn(&Kind) -> bool) -> Result<Arc<Object>, Fault> {
    let object = find(name).ok_or(Fault::NotFound)?;
    match (is(&lock(&object.kind)), object.denied) {
        (true, false) => {}
        (true, true) => return Err(Fault::Denied),
        (false, _) => return Err(Fault::WrongKind),
    }
    Ok(object)
}

/// This thread's process is killed: its mutexes are abandoned.
pub(crate) fn die() {
    let here = thread::current().id();
    let mut world = lock(&WORLD);
    for object in world.get_or_insert_default().values().filter_map(Weak::upgrade) {
        if let Kind::Mutex { owner, times, abandoned } = &mut *lock(&object.kind)
            && *owner == Some(here)
        {
            (*owner, *times, *abandoned) = (None, 0, true);
        }
    }
    CHANGED.notify_all();
}

pub(crate) fn page_bytes() -> usize {
    4096
}

#[derive(Debug)]
pub(crate) struct Security {
    denies: bool,
}

impl Security {
    pub(crate) fn of(access: &Access) -> io::Result<Self> {
        match access {
            Access::System => Ok(Self { denies: false }),
            // An empty list: nobody.
            Access::Sddl(sddl) if sddl == "D:P" => Ok(Self { denies: true }),
            Access::Sddl(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Event(Arc<Object>);

impl Event {
    pub(crate) fn unnamed() -> Result<Self, Fault> {
        let kind = Lock::new(Kind::Event { set: false, resets_itself: true });
        Ok(Self(Arc::new(Object { kind, denied: false, waiters: AtomicU32::new(0) })))
    }

    pub(crate) fn create(name: &str, security: &Security) -> Result<Self, Fault> {
        let kind = Kind::Event { set: false, resets_itself: true };
        Ok(Self(create(name, kind, security)?.0))
    }

    pub(crate) fn with_manual_reset(name: &str) -> Result<Self, Fault> {
        let kind = Kind::Event { set: false, resets_itself: false };
        Ok(Self(create(name, kind, &Security { denies: false })?.0))
    }

    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        Ok(Self(open(name, |kind| matches!(kind, Kind::Event { .. }))?))
    }

    pub(crate) fn set(&self) -> Result<(), Fault> {
        let _world = lock(&WORLD);
        if let Kind::Event { set, .. } = &mut *lock(&self.0.kind) {
            *set = true;
        }
        CHANGED.notify_all();
        Ok(())
    }

    pub(crate) fn resets_itself(&self) -> Result<bool, Fault> {
        Ok(matches!(&*lock(&self.0.kind), Kind::Event { resets_itself: true, .. }))
    }
}

#[derive(Clone)]
pub(crate) struct Mutex(Arc<Object>);

impl Mutex {
    pub(crate) fn create(name: &str, security: &Security) -> Result<Self, Fault> {
        let kind = Kind::Mutex { owner: None, times: 0, abandoned: false };
        Ok(Self(create(name, kind, security)?.0))
    }

    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        Ok(Self(open(name, |kind| matches!(kind, Kind::Mutex { .. }))?))
    }

    pub(crate) fn release(&self) -> Result<(), Fault> {
        let _world = lock(&WORLD);
        if let Kind::Mutex { owner, times, .. } = &mut *lock(&self.0.kind)
            && *owner == Some(thread::current().id())
        {
            *times -= 1;
            if *times == 0 {
                *owner = None;
            }
            CHANGED.notify_all();
            return Ok(());
        }
        Err(Fault::Os("release", io::ErrorKind::PermissionDenied.into()))
    }
}

pub(crate) struct Section(Arc<Object>);

impl Section {
    pub(crate) fn create(
        name: &str,
        bytes: usize,
        security: &Security,
    ) -> Result<(Self, bool), Fault> {
        let memory = vec![0; bytes.next_multiple_of(page_bytes())];
        let kind = Kind::Section { memory, of_a_file: false };
        let (object, existed) = create(name, kind, security)?;
        Ok((Self::checked(object)?, existed))
    }

    /// Makes one that is a file's, as other programs may.
    pub(crate) fn of_a_file(name: &str, bytes: usize) -> impl Sized + use<> {
        let kind = Kind::Section { memory: vec![0; bytes], of_a_file: true };
        create(name, kind, &Security { denies: false }).unwrap().0
    }

    pub(crate) fn open(name: &str) -> Result<Self, Fault> {
        Self::checked(open(name, |kind| matches!(kind, Kind::Section { .. }))?)
    }

    fn checked(object: Arc<Object>) -> Result<Self, Fault> {
        /// `SEC_FILE`.
        const FILE: u32 = 0x0080_0000;
        if matches!(&*lock(&object.kind), Kind::Section { of_a_file: true, .. }) {
            return Err(Fault::NotPageFile(FILE));
        }
        Ok(Self(object))
    }

    fn with<R>(&self, use_it: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        match &mut *lock(&self.0.kind) {
            Kind::Section { memory, .. } => use_it(memory),
            _ => unreachable!("only sections are opened as such"),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.with(|memory| memory.len())
    }

    pub(crate) fn read(&self, into: &mut [u8]) {
        self.with(|memory| into.copy_from_slice(&memory[..into.len()]));
    }

    pub(crate) fn write(&self, from: &[u8]) {
        self.with(|memory| memory[..from.len()].copy_from_slice(from));
    }

    pub(crate) fn holds(&self, bytes: &[u8]) -> bool {
        self.with(|memory| memory.starts_with(bytes))
    }
}

impl std::fmt::Debug for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Section")
    }
}

/// Takes an object for this thread, if it is ready.
fn take(object: &Object) -> Option<fn(usize) -> Woken> {
    let here = thread::current().id();
    match &mut *lock(&object.kind) {
        Kind::Event { set, resets_itself } => set.then(|| {
            *set = !*resets_itself;
            Woken::Object as fn(usize) -> Woken
        }),
        Kind::Mutex { owner, times, abandoned } => {
            if owner.is_some_and(|owner| owner != here) {
                return None;
            }
            (*owner, *times) = (Some(here), *times + 1);
            Some(if std::mem::take(abandoned) { Woken::Abandoned } else { Woken::Object })
        }
        Kind::Section { .. } => unreachable!("nobody waits for memory"),
    }
}

fn object<'a>(any: &Any<'a>) -> &'a Object {
    match any {
        Any::Event(event) => &event.0,
        Any::Mutex(mutex) => &mutex.0,
    }
}

/// How many threads sleep in waits for this object.
pub(crate) fn waiters(any: Any<'_>) -> u32 {
    let _world = lock(&WORLD);
    object(&any).waiters.load(Relaxed)
}

pub(crate) fn wait(objects: &[Any<'_>], limit: Duration) -> Result<Woken, Fault> {
    let began = Instant::now();
    let mut world = lock(&WORLD);
    loop {
        for (at, object) in objects.iter().map(object).enumerate() {
            if let Some(woken) = take(object) {
                return Ok(woken(at));
            }
        }
        let left = limit.saturating_sub(began.elapsed());
        if left.is_zero() {
            return Ok(Woken::TimedOut);
        }
        let count = |by: fn(u32) -> u32| {
            for waiters in objects.iter().map(|any| &object(any).waiters) {
                waiters.store(by(waiters.load(Relaxed)), Relaxed);
            }
        };
        count(|waiters| waiters + 1);
        world = CHANGED.wait_timeout(world, left).unwrap_or_else(PoisonError::into_inner).0;
        count(|waiters| waiters - 1);
    }
}
