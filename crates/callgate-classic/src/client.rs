//! The asking side: attaching, one exchange after another, letting go.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::Plain;
use crate::error::{CallError, Holder, ObjectError, ServerState, Started};
use crate::exchange::{self, Awaited, End, Free, Limits, Memory, Table};
use crate::gate::{Closed, Gate, Left, lock};
use crate::names::{Names, Object};
use crate::options::{Access, ClientOptions};
use crate::server::serves_here;
use crate::system::{self, Any, Event, Fault, Section, Security, Woken};

/// A client of one endpoint. Threads may share it; their calls wait for each other, as all clients' do.
///
/// Nothing is opened before the first call. Calls block, for no longer than the limits of [`ClientOptions`] together,
/// and each ends on the thread that began it, since Win32 mutexes belong to threads.
pub struct Client<T> {
    names: Names,
    options: ClientOptions,
    gate: Arc<Gate>,
    place: Mutex<Place>,
    status: Mutex<ClientStatus>,
    of: PhantomData<fn(T) -> T>,
}

/// What a client has met so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStatus {
    /// Calls that were answered.
    pub answered: u64,
    /// Times that Free's owner had died.
    pub abandoned: u64,
    /// Answers that came too late for their exchange, or belonged to another's, and were thrown away.
    pub late: u64,
    /// Requests that were taken back since no server took them: this client's, and those that others left.
    pub withdrawn: u64,
}

#[derive(Default)]
struct Place {
    attached: Option<Attached>,
    free: Option<system::Mutex>,
}

struct Attached {
    section: Section,
    exec: Event,
    done: Event,
    server: Watched,
}

/// What is known of a server of this crate.
enum Watched {
    /// Nobody has looked yet: that is done with Free.
    NotYet,
    /// None was there.
    No,
    /// One owned this mutex of its own.
    Owner(system::Mutex),
}

impl Attached {
    fn owner(&self) -> Option<&system::Mutex> {
        match &self.server {
            Watched::Owner(owner) => Some(owner),
            Watched::NotYet | Watched::No => None,
        }
    }
}

impl<T: Plain> Client<T> {
    /// Makes a client with default options.
    #[must_use]
    pub fn new(names: &Names) -> Self {
        Self::with(names, ClientOptions::default())
    }

    /// Makes a client.
    #[must_use]
    pub fn with(names: &Names, options: ClientOptions) -> Self {
        const { assert!(size_of::<T>() > 0, "memory has at least one byte") };
        Self {
            names: names.clone(),
            options,
            gate: Gate::of(names.of(Object::Free)),
            place: Mutex::default(),
            status: Mutex::default(),
            of: PhantomData,
        }
    }

    /// Puts the request into the memory, and gives what the server made of it. For structs that fit on the stack;
    /// [`Client::call_in_place`] is for others.
    ///
    /// # Errors
    /// Each of [`CallError`]. The next call may be made in all cases; it attaches anew where this one has let go.
    pub fn call(&self, request: &T) -> Result<T, CallError> {
        self.call_checked(request, |_| true)
    }

    /// Calls, and takes only an answer for which `is_mine` holds, until the time is over. For structs in which the
    /// answer says which request it is to: by a field into which the server copies the number of the request that it
    /// took, after all else. The request has another value there. A number that the server only leaves alone in the
    /// memory does not tell, since it is this request's by the time a late answer comes.
    ///
    /// An answer that is not this call's has come over its request. If the server has not taken that yet it is written
    /// anew; otherwise what the server ran may have been a mixture, and `is_mine` decides about its answer, too.
    ///
    /// `is_mine` runs with Free owned: other clients wait meanwhile. Calls to this endpoint from within it fail with
    /// [`CallError::WouldDeadlock`].
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_checked(
        &self,
        request: &T,
        is_mine: impl FnMut(&T) -> bool,
    ) -> Result<T, CallError> {
        let mut answer = T::new_zeroed();
        self.exchange(request, &mut answer, is_mine)?;
        Ok(answer)
    }

    /// Calls with `data` as the request, and replaces it by the answer. If the call fails it is unchanged.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn call_in_place(&self, data: &mut T) -> Result<(), CallError> {
        let no_memory = |_| CallError::NoMemory { bytes: size_of::<T>() };
        let mut answer = T::new_box_zeroed().map_err(no_memory)?;
        self.exchange(data, &mut answer, |_| true)?;
        data.as_mut_bytes().copy_from_slice(answer.as_bytes());
        Ok(())
    }

    /// Lets go of the memory and the events, until the next call. Waits for a call that is under way; from within one
    /// it does nothing.
    pub fn detach(&self) {
        if let Ok(_inside) = self.gate.enter(Duration::MAX) {
            lock(&self.place).attached = None;
        }
    }

    /// What this client has met so far.
    #[must_use]
    pub fn status(&self) -> ClientStatus {
        *lock(&self.status)
    }

    fn exchange(
        &self,
        request: &T,
        answer: &mut T,
        is_mine: impl FnMut(&T) -> bool,
    ) -> Result<(), CallError> {
        let began = Instant::now();
        if serves_here(self.names.of(Object::Memory)) {
            return Err(self.would_deadlock(Object::Memory));
        }
        let _inside = self.gate.enter(self.options.busy).map_err(|closed| match closed {
            Closed::Inside => self.would_deadlock(Object::Free),
            Closed::TimedOut => self.busy(Holder::ThisProcess, began),
        })?;
        let mut place = lock(&self.place);
        self.attach(&mut place)?;
        let limits = Limits {
            busy: self.options.busy.saturating_sub(began.elapsed()),
            settle: self.options.settle,
            answer: self.options.answer,
        };
        let sent = Instant::now();
        let Left { memory, elsewhere } = self.gate.left_behind(&self.names);
        let mut leaving = Leaving { gate: &self.gate, names: &self.names, memory, settled: true };
        let mut table = Turn {
            client: self,
            place: &mut place,
            request,
            answer,
            is_mine,
            elsewhere,
            began: sent,
        };
        let end = exchange::exchange(&mut table, &mut leaving.memory, limits);
        // Else nothing was settled, or `open` has seen that nothing can be left.
        leaving.settled = !matches!(
            end,
            Ok(End::Busy) | Err(CallError::NotRunning { object: Object::Memory, .. })
        );
        let memory = leaving.memory;
        drop(leaving);
        self.count(&memory, matches!(end, Ok(End::Answered)));
        let end = self.ended(&mut place, end, began);
        if !self.options.stay_attached {
            place.attached = None;
        }
        end
    }

    /// Says what the end of an exchange means, and lets go of the memory where the server is taken for dead.
    fn ended(
        &self,
        place: &mut MutexGuard<'_, Place>,
        end: Result<End, CallError>,
        began: Instant,
    ) -> Result<(), CallError> {
        let name = self.names.of(Object::Memory).to_owned();
        let waited = began.elapsed();
        match end? {
            End::Answered => Ok(()),
            End::Busy => Err(self.busy(Holder::AnotherProcess, began)),
            End::Unsettled => Err(CallError::Unsettled { name, waited }),
            End::NoAnswer { taken, ended, foreign } => {
                let server = self.let_go(place, ended);
                let started = if taken { Started::MayHaveRun } else { Started::NotStarted };
                Err(CallError::NoAnswer { name, waited, started, server, foreign })
            }
        }
    }

    /// Lets go of the memory, and sees what that tells of the server.
    fn let_go(&self, place: &mut MutexGuard<'_, Place>, ended: bool) -> ServerState {
        let watched = place.attached.take().is_some_and(|attached| attached.owner().is_some());
        if ended {
            return ServerState::Ended;
        }
        if watched {
            return ServerState::Alive;
        }
        match Section::open(self.names.of(Object::Memory)) {
            Err(Fault::NotFound) => {
                self.gate.forget(&self.names);
                ServerState::Gone
            }
            _ => ServerState::Unknown,
        }
    }

    /// Opens what is not open.
    fn attach(&self, place: &mut MutexGuard<'_, Place>) -> Result<(), CallError> {
        if place.free.is_none() {
            let security = security(&self.options.access)?;
            let free = system::Mutex::create(self.names.of(Object::Free), &security);
            place.free = Some(free.map_err(|fault| fault.of(Object::Free, &self.names))?);
        }
        if place.attached.is_none() {
            place.attached = Some(self.open()?);
        }
        Ok(())
    }

    fn open(&self) -> Result<Attached, CallError> {
        let names = &self.names;
        let failed = |object| {
            move |fault| match fault {
                Fault::NotFound => {
                    CallError::NotRunning { object, name: names.of(object).to_owned() }
                }
                fault => CallError::Object(fault.of(object, names)),
            }
        };
        let section = Section::open(names.of(Object::Memory)).inspect_err(|fault| {
            if matches!(fault, Fault::NotFound) {
                self.gate.forget(names);
            }
        });
        let section = section.map_err(failed(Object::Memory))?;
        check_size(&section, names, size_of::<T>(), self.options.accept_larger)?;
        let exec = Event::open(names.of(Object::Exec)).map_err(failed(Object::Exec))?;
        let done = Event::open(names.of(Object::Done)).map_err(failed(Object::Done))?;
        check_kind(&exec, Object::Exec, names)?;
        check_kind(&done, Object::Done, names)?;
        Ok(Attached { section, exec, done, server: Watched::NotYet })
    }

    fn count(&self, memory: &Memory, answered: bool) {
        let mut status = lock(&self.status);
        status.answered += u64::from(answered);
        status.abandoned += memory.abandoned;
        status.late += memory.late;
        status.withdrawn += memory.withdrawn;
    }

    fn busy(&self, holder: Holder, began: Instant) -> CallError {
        let name = self.names.of(Object::Free).to_owned();
        CallError::Busy { name, holder, waited: began.elapsed() }
    }

    fn would_deadlock(&self, object: Object) -> CallError {
        CallError::WouldDeadlock { name: self.names.of(object).to_owned() }
    }
}

impl<T> std::fmt::Debug for Client<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Notes what an exchange leaves behind, a panic of the caller's check included. For who is inside.
struct Leaving<'a> {
    gate: &'a Gate,
    names: &'a Names,
    memory: Memory,
    settled: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.settled {
            self.gate.leave_behind(self.names, self.memory);
        }
    }
}

/// Whether a server owns this mutex. One that is free is taken for a moment by the look, so only who has Free looks.
fn is_owned(owner: &system::Mutex) -> bool {
    match system::wait(&[Any::Mutex(owner)], Duration::ZERO) {
        Ok(Woken::TimedOut) => true,
        Ok(Woken::Object(_) | Woken::Abandoned(_)) => {
            let _ = owner.release();
            false
        }
        Err(_) => false,
    }
}

/// Who may use the objects that are made.
pub(crate) fn security(access: &Access) -> Result<Security, ObjectError> {
    Security::of(access).map_err(|source| {
        let sddl = match access {
            Access::System => String::new(),
            Access::Sddl(sddl) => sddl.clone(),
        };
        ObjectError::Sddl { sddl, source }
    })
}

/// Refuses memory in which the struct does not lie as here.
pub(crate) fn check_size(
    section: &Section,
    names: &Names,
    want: usize,
    accept_larger: bool,
) -> Result<(), ObjectError> {
    let have = section.bytes();
    let want_pages = want.next_multiple_of(system::page_bytes());
    if have < want || (have > want_pages && !accept_larger) {
        let name = names.of(Object::Memory).to_owned();
        return Err(ObjectError::Size { name, have, want, want_pages });
    }
    Ok(())
}

/// Refuses an event that would stay set.
pub(crate) fn check_kind(event: &Event, object: Object, names: &Names) -> Result<(), ObjectError> {
    if event.resets_itself().map_err(|fault| fault.of(object, names))? {
        return Ok(());
    }
    Err(ObjectError::ManualReset { object, name: names.of(object).to_owned() })
}

/// One exchange's view of the objects.
struct Turn<'a, T, F> {
    client: &'a Client<T>,
    /// Has both, but while `meet` attaches anew.
    place: &'a mut Place,
    request: &'a T,
    answer: &'a mut T,
    is_mine: F,
    /// What was left is another endpoint's.
    elsewhere: bool,
    began: Instant,
}

impl<T, F> Turn<'_, T, F> {
    fn names(&self) -> &Names {
        &self.client.names
    }

    fn attached(&self) -> &Attached {
        let attached = self.place.attached.as_ref();
        attached.expect("`attach` has put it there, and an exchange ends where `meet` has not")
    }

    fn free(&self) -> &system::Mutex {
        self.place.free.as_ref().expect("`attach` has put it there")
    }

    fn failed(&self, object: Object) -> impl Fn(Fault) -> CallError {
        move |fault| CallError::Object(fault.of(object, self.names()))
    }
}

impl<T: Plain, F: FnMut(&T) -> bool> Table for Turn<'_, T, F> {
    type Error = CallError;

    fn take_free(&mut self, limit: Duration) -> Result<Free, CallError> {
        match system::wait(&[Any::Mutex(self.free())], limit) {
            Ok(Woken::Object(_)) => Ok(Free::Taken),
            Ok(Woken::Abandoned(_)) => Ok(Free::Abandoned),
            Ok(Woken::TimedOut) => Ok(Free::TimedOut),
            Err(fault) => Err(self.failed(Object::Free)(fault)),
        }
    }

    fn release_free(&mut self) {
        let released = self.free().release();
        debug_assert!(released.is_ok(), "this thread took it: {released:?}");
    }

    /// What a dead server of this crate has left is opened anew: another may serve by now.
    fn meet(&mut self) -> Result<bool, CallError> {
        if self.attached().owner().is_some_and(|owner| !is_owned(owner)) {
            self.place.attached = None;
            self.place.attached = Some(self.client.open()?);
        }
        if !matches!(self.attached().server, Watched::NotYet) {
            return Ok(false);
        }
        let owner = system::Mutex::open(self.names().of(Object::Owner)).ok().filter(is_owned);
        // Whoever had a request before it: this one has drained both events since.
        let met = owner.is_some() && !self.elsewhere;
        if let Some(attached) = &mut self.place.attached {
            attached.server = owner.map_or(Watched::No, Watched::Owner);
        }
        Ok(met)
    }

    fn withdraw(&mut self) -> Result<bool, CallError> {
        let woken = system::wait(&[Any::Event(&self.attached().exec)], Duration::ZERO);
        Ok(woken.map_err(self.failed(Object::Exec))? != Woken::TimedOut)
    }

    fn await_done(&mut self, limit: Duration) -> Result<Awaited, CallError> {
        let done = Any::Event(&self.attached().done);
        let owner = self.attached().owner();
        // Done is the first: an answer of a server that has ended since is still an answer.
        let woken = match owner {
            Some(owner) => system::wait(&[done, Any::Mutex(owner)], limit),
            None => system::wait(&[done], limit),
        };
        match woken.map_err(self.failed(Object::Done))? {
            Woken::Object(0) => Ok(Awaited::Done),
            Woken::TimedOut => Ok(Awaited::TimedOut),
            Woken::Object(_) | Woken::Abandoned(_) => {
                let released = owner.map(system::Mutex::release);
                debug_assert!(matches!(released, Some(Ok(()))), "{released:?}");
                Ok(Awaited::Ended)
            }
        }
    }

    fn write_request(&mut self) {
        self.attached().section.write(self.request.as_bytes());
    }

    fn holds_request(&mut self) -> bool {
        self.attached().section.holds(self.request.as_bytes())
    }

    fn set_exec(&mut self) -> Result<(), CallError> {
        self.attached().exec.set().map_err(self.failed(Object::Exec))
    }

    fn read_answer(&mut self) -> bool {
        let attached = self.place.attached.as_ref().expect("as in `attached`");
        attached.section.read(self.answer.as_mut_bytes());
        (self.is_mine)(self.answer)
    }

    fn holds_back(&self) -> bool {
        self.attached().owner().is_some() && !self.elsewhere
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}
