//! The liar: a pipe served by hand, one client at a time.

use std::fs::File;
use std::io::{Read, Write};
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use callgate_proto::body::{Body, Place, ReplyHead};
use callgate_proto::chain::{Deferred, Intake, Taken};
use callgate_proto::layout::{CELLS_OFFSET, Cell, DETOUR_OFFSET, Detour, control_bytes};
use callgate_proto::wire::{Answer, Ask, Hello, Message, Versions, Welcome};
use callgate_sys::process::fresh_number;
use callgate_tests::{Rng, until};
use windows_sys::Win32::Foundation::{
    DUPLICATE_CLOSE_SOURCE, DUPLICATE_SAME_ACCESS, DuplicateHandle, HANDLE, INVALID_HANDLE_VALUE,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::PIPE_ACCESS_DUPLEX;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_WRITE, MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile,
    SECTION_MAP_READ, SECTION_QUERY, UnmapViewOfFile,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, GetNamedPipeClientProcessId, PIPE_READMODE_MESSAGE,
    PIPE_TYPE_MESSAGE, PIPE_UNLIMITED_INSTANCES, PeekNamedPipe,
};
use windows_sys::Win32::System::Threading::{
    CreateEventW, GetCurrentProcess, OpenProcess, PROCESS_DUP_HANDLE, SetEvent,
};

/// What an honest server gives to a reader: what that needs, and the mark.
pub const READER: u32 = SECTION_MAP_READ | SECTION_QUERY | MARK;
/// DELETE.
pub const MARK: u32 = 0x1_0000;

/// A pipe's path of its own.
pub fn fresh_path() -> String {
    format!(r"\\.\pipe\callgate-liar-{:x}", fresh_number())
}

/// A frame as PROTOCOL.md 9.2 has it.
pub fn frame(kind: u32, memory: u32, bytes: &[u8]) -> Vec<u8> {
    let header = [kind, memory, 0].map(u32::to_le_bytes).concat();
    [header, bytes.to_vec()].concat()
}

fn owned(handle: HANDLE) -> OwnedHandle {
    let failed = handle.is_null() || handle == INVALID_HANDLE_VALUE;
    assert!(!failed, "{}", std::io::Error::last_os_error());
    // SAFETY: made just now by a call that has succeeded.
    unsafe { OwnedHandle::from_raw_handle(handle) }
}

/// A section of the page file, or of a file.
pub fn section(file: Option<&File>, protection: u32, len: usize) -> OwnedHandle {
    let file = file.map_or(INVALID_HANDLE_VALUE, AsRawHandle::as_raw_handle);
    let len = u32::try_from(len).expect("short");
    // SAFETY: the file is open or none; there is no name.
    owned(unsafe {
        CreateFileMappingW(file, std::ptr::null(), protection, 0, len, std::ptr::null())
    })
}

/// An event.
pub fn event() -> OwnedHandle {
    // SAFETY: there are no attributes, and there is no name.
    owned(unsafe { CreateEventW(std::ptr::null(), 0, 0, std::ptr::null()) })
}

/// The client's process, and its table of handles.
#[derive(Clone)]
pub struct Table(Arc<OwnedHandle>);

fn handle(number: u32) -> HANDLE {
    std::ptr::without_provenance_mut(number as usize)
}

impl Table {
    fn copy(&self, number: u32) -> Option<OwnedHandle> {
        let mut copy = std::ptr::null_mut();
        // SAFETY: the process is open; the number is looked up in its table, and the result is a live local.
        let copied = unsafe {
            let (from, to) = (self.0.as_raw_handle(), GetCurrentProcess());
            DuplicateHandle(from, handle(number), to, &raw mut copy, 0, 0, DUPLICATE_SAME_ACCESS)
        };
        (copied != 0).then(|| owned(copy))
    }

    /// Whether there is such a handle.
    pub fn has(&self, number: u32) -> bool {
        self.copy(number).is_some()
    }

    /// Closes it there.
    pub fn close(&self, number: u32) {
        let null = std::ptr::null_mut();
        // SAFETY: as in `copy`; without a target the source is closed only.
        unsafe {
            let from = self.0.as_raw_handle();
            let to = std::ptr::null_mut();
            DuplicateHandle(from, handle(number), to, null, 0, 0, DUPLICATE_CLOSE_SOURCE)
        };
    }
}

/// A server by hand.
pub struct Liar {
    path: Vec<u16>,
    next: File,
}

fn instance(path: &[u16]) -> File {
    let mode = PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE;
    let (many, room) = (PIPE_UNLIMITED_INSTANCES, 4_096);
    // Owned by its user, or no client takes it for that user's.
    let private = callgate_sys::endpoint::private_dir().expect("a place");
    let sid = private.file_name().expect("the user").to_string_lossy();
    let list: Vec<u16> = format!("O:{sid}D:(A;;GA;;;{sid})").encode_utf16().chain([0]).collect();
    let mut security = SECURITY_ATTRIBUTES {
        nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
        ..Default::default()
    };
    // SAFETY: path and list end with a zero; the descriptor is a live local's, and stays for good.
    owned(unsafe {
        let made = ConvertStringSecurityDescriptorToSecurityDescriptorW(
            list.as_ptr(),
            SDDL_REVISION_1,
            &raw mut security.lpSecurityDescriptor,
            std::ptr::null_mut(),
        );
        assert!(made != 0, "a security descriptor");
        CreateNamedPipeW(path.as_ptr(), PIPE_ACCESS_DUPLEX, mode, many, room, room, 0, &security)
    })
    .into()
}

impl Liar {
    /// Listens.
    pub fn new(path: &str) -> Self {
        let path: Vec<u16> = path.encode_utf16().chain([0]).collect();
        let next = instance(&path);
        Self { path, next }
    }

    /// Waits for a client.
    pub fn accept(&mut self) -> Link {
        // SAFETY: the pipe is open, and not overlapped. It fails where a client is there already.
        unsafe { ConnectNamedPipe(self.next.as_raw_handle(), std::ptr::null_mut()) };
        // There is always one more, so that nobody takes this for a server that is gone.
        let pipe = std::mem::replace(&mut self.next, instance(&self.path));
        let mut pid = 0;
        // SAFETY: the pipe is open; the result is a live local.
        unsafe { GetNamedPipeClientProcessId(pipe.as_raw_handle(), &raw mut pid) };
        // SAFETY: no memory is passed.
        let process = owned(unsafe { OpenProcess(PROCESS_DUP_HANDLE, 0, pid) });
        Link { pipe, table: Table(Arc::new(process)), named: (0, 0), region: None }
    }

    /// Waits for a client, hears its hello, and welcomes it.
    pub fn welcome(&mut self) -> Link {
        let mut link = self.accept();
        link.hello();
        link.welcomes();
        link
    }
}

/// A connection with a client.
pub struct Link {
    pipe: File,
    table: Table,
    named: (u32, u32),
    region: Option<Region>,
}

/// Its control region.
struct Region {
    words: &'static [AtomicU64],
    bell: OwnedHandle,
    cells: u32,
    intake: Intake,
    deferred: Deferred,
}

impl Region {
    fn cells(&self) -> &[Cell] {
        assert!(control_bytes(self.cells) <= size_of_val(self.words));
        // SAFETY: so many cells lie inside the mapping (asserted), aligned by layout; they consist of atomics.
        unsafe {
            let first = self.words.as_ptr().byte_add(CELLS_OFFSET).cast::<Cell>();
            std::slice::from_raw_parts(first, self.cells as usize)
        }
    }

    fn detour(&self) -> &Detour {
        // SAFETY: the line lies inside the mapping, before the cells, and consists of atomics.
        unsafe { &*self.words.as_ptr().byte_add(DETOUR_OFFSET).cast::<Detour>() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let view = MEMORY_MAPPED_VIEW_ADDRESS { Value: self.words.as_ptr().cast_mut().cast() };
        // SAFETY: mapped in `hello`, and used by nobody any more.
        unsafe { UnmapViewOfFile(view) };
    }
}

impl Link {
    /// Reads the client's hello, and takes its memory.
    pub fn hello(&mut self) {
        let mut bytes = [0; 128];
        let len = self.pipe.read(&mut bytes).expect("a hello");
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four"));
        self.named = (word(4), word(8));
        let hello = Hello::decode(&bytes[12..len]).expect("an honest client");
        let Some(Ask::Connect { cells, control, .. }) = hello.ask else { panic!("{hello:?}") };
        let memory = self.table.copy(self.named.0).expect("its memory");
        let bell = self.table.copy(self.named.1).expect("its event");
        let size = control as usize;
        // SAFETY: a new mapping, unmapped only by its owner's drop.
        let words = unsafe {
            let view = MapViewOfFile(memory.as_raw_handle(), FILE_MAP_WRITE, 0, 0, size).Value;
            assert!(!view.is_null());
            std::slice::from_raw_parts(view.cast::<AtomicU64>(), size / 8)
        };
        let (intake, deferred) = (Intake::new(cells), Deferred::default());
        self.region = Some(Region { words, bell, cells, intake, deferred });
    }

    /// Says that it has taken what the hello named, and welcomes.
    pub fn welcomes(&mut self) {
        let welcome = Welcome {
            epoch: 1,
            request_max: 1 << 20,
            reply_max: 1 << 20,
            quota: 1 << 30,
            in_flight: self.region().cells - 1,
        };
        self.say(&frame(1, 1, &[]));
        self.say(&frame(0, 0, Answer::Welcome(welcome).encode(Versions::OURS).as_bytes()));
    }

    fn region(&self) -> &Region {
        self.region.as_ref().expect("it has said hello")
    }

    /// The numbers that the client named in its hello.
    pub fn named(&self) -> (u32, u32) {
        self.named
    }

    /// The client's table of handles.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Writes a message. A client that has hung up already was quicker.
    pub fn say(&mut self, message: &[u8]) {
        let _ = self.pipe.write(message);
    }

    /// Waits for a call.
    pub fn next(&mut self) -> Taken {
        let region = self.region.as_mut().expect("it has said hello");
        until("a call", || {
            let mut intake = std::mem::replace(&mut region.intake, Intake::new(region.cells));
            let taken = intake.take(region.cells(), region.detour(), &region.deferred);
            region.intake = intake;
            taken.expect("an honest client")
        })
    }

    fn ring(&self) {
        // SAFETY: the event is open.
        unsafe { SetEvent(self.region().bell.as_raw_handle()) };
    }

    /// Replies.
    pub fn reply(&self, taken: &Taken, body: &Body) {
        let cell = &self.region().cells()[usize::from(taken.cell)];
        let _ = cell.publish_reply(taken.turn, ReplyHead::default(), 0, body);
        self.ring();
    }

    /// Writes a cell's words: phase 2 is a reply, the turn is counted from the first call's.
    pub fn write(&self, cell: u16, phase: u32, turn: u32, head: u64, body: [u64; 3]) {
        let at = CELLS_OFFSET / 8 + 8 * usize::from(cell);
        let words = &self.region().words[at..at + 8];
        for (word, value) in words[2..].iter().zip(body) {
            word.store(value, Relaxed);
        }
        words[1].store(head, Relaxed);
        let turn = 1u32.wrapping_add(turn) & 0x03ff_ffff;
        // The state is the lower half of the first word.
        let rest = words[0].load(Relaxed) & !u64::from(u32::MAX);
        words[0].store(rest | u64::from(turn << 6 | phase << 4), SeqCst);
        self.ring();
    }

    /// A reply to the first call that lies in memory.
    pub fn refer(&self, cell: u16, place: Place) {
        self.write(cell, 2, 0, 1 << 22, [place.region.into(), place.offset, place.len]);
    }

    /// Writes anything anywhere.
    pub fn scribble(&self, rng: &mut Rng) {
        let words = self.region().words;
        for _ in 0..200 {
            let at = if rng.chance(50) { rng.below(64) } else { rng.below(words.len()) };
            words[at].store(rng.next() & rng.next(), Relaxed);
            if rng.chance(10) {
                self.ring();
            }
        }
        self.ring();
    }

    /// Puts a handle into the client's table; its number there.
    pub fn give(&self, object: &OwnedHandle, rights: u32) -> u32 {
        let mut theirs = std::ptr::null_mut();
        // SAFETY: all handles are open; the result is a live local.
        let given = unsafe {
            let (from, to) = (GetCurrentProcess(), self.table.0.as_raw_handle());
            DuplicateHandle(from, object.as_raw_handle(), to, &raw mut theirs, rights, 0, 0)
        };
        assert!(given != 0, "{}", std::io::Error::last_os_error());
        theirs.addr() as u32
    }

    /// Announces reply memory under id 0.
    pub fn announce(&mut self, number: u32, len: usize) {
        self.announce_as(0, number, len);
    }

    /// Announces reply memory.
    pub fn announce_as(&mut self, id: u32, number: u32, len: usize) {
        let message = Message::Region { id, size: len as u64 }.encode();
        self.say(&frame(0, number, message.as_bytes()));
    }

    /// Whether the client has hung up.
    pub fn is_gone(&self) -> bool {
        let null = std::ptr::null_mut();
        // SAFETY: the pipe is open; nothing is asked for but whether it is connected.
        let peeked = unsafe {
            let none = std::ptr::null_mut();
            PeekNamedPipe(self.pipe.as_raw_handle(), null, 0, none, none, none)
        };
        peeked == 0
    }

    /// Waits until the client has hung up.
    pub fn wait_until_gone(&self) {
        until("the client hangs up", || self.is_gone().then_some(()));
    }

    /// Has the client end the connection, and waits for it: so its next call is made over a new one.
    pub fn end(mut self) {
        self.say(&[9]);
        self.wait_until_gone();
    }
}
