//! What a model is of: who calls how, what may happen to them, and which defect is put in.

/// A call that a caller makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Kind {
    /// `Client::call`: its caller does nothing else until it has ended. Otherwise `Client::submit`.
    pub alone: bool,
    /// The request lies in a region of the client's.
    pub far_request: bool,
    /// The reply lies in a region of the server's.
    pub far_reply: bool,
    /// Who answers.
    pub answered: Answered,
    /// It may be given up at any time: its deadline passes, or it is cancelled.
    pub impatient: bool,
    /// It may run twice.
    pub idempotent: bool,
}

/// Who answers a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Answered {
    /// The handler, before it returns.
    #[default]
    Now,
    /// Another thread.
    Later,
    /// One or the other.
    Either,
}

/// A defect that is put into the model: each must be found, or a model that finds nothing says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A reply is published by a swap, which loses what the worker armed.
    ReplyForgetsArming,
    /// The worker arms, and does not look for a detour afterwards.
    NoLookAfterArming,
    /// A detour does not take the duty to ring over.
    DetourForgetsToRing,
    /// A detour is said before its request is published.
    DetourBeforeRequest,
    /// Who published does not look at ARMED.
    NoRing,
    /// Who answered does not look at ASLEEP.
    NoWake,
    /// Who ends a connection wakes nobody.
    NoWakeAtEnd,
    /// A cell is free as soon as its call was given up.
    CellFreedAtCancel,
    /// A request's memory is free as soon as its call was given up.
    MemoryFreedAtCancel,
    /// A server reuses a reply's memory as soon as the reply is out.
    ReplyMemoryFreedAtReply,
    /// A region is announced after the call that uses it was published.
    AnnouncedTooLate,
    /// Regions are retired while payloads live in them.
    RetiredInUse,
    /// The turn is stored after the handler has begun.
    TakenTooLate,
    /// A server that stops passes no barrier before it hangs up.
    NoBarrierAtStop,
    /// A worker does not look whether the connection has ended before it runs a handler.
    NoLookBeforeRun,
    /// Calls that may have run are repeated, idempotent or not.
    RepeatsWhatMayHaveRun,
    /// A client that ends a connection by itself believes `taken`.
    TakenBelievedTooEarly,
    /// A drain ends while deferred calls are unanswered, though its time has not passed.
    DrainForgetsDeferred,
    /// Lone calls use their place while somebody else recalls it.
    LeaseNotRecalled,
    /// Who waited until the server had read its socket announces its region without looking for room again.
    RoomNotLookedForAgain,
    /// A retired region's memory counts as free while its announcement has yet to be sent.
    RetiresOvertaken,
    /// How a repeated call ends says nothing of its earlier tries.
    EarlierTriesForgotten,
    /// A thread that answers keeps the request's region until it is done.
    RegionHeldAfterReply,
    /// A reply's room is used again before its client has let go of it.
    RoomUsedAgainTooEarly,
    /// Who needs room takes the spare region though a caller has it.
    SpareTakenThoughInUse,
    /// A caller gives the spare region back when it has published its request.
    SpareLeftTooEarly,
    /// The region of a call that was given up stays the spare one.
    SpareLeftAtCancel,
    /// Where the place is recalled, the reply that was read there last is not released.
    LentPlaceUnreleased,
}

/// What a model is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How it is called on the command line.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// The calls of each caller, one after the other.
    pub callers: Vec<Vec<Kind>>,
    /// Cells of a connection.
    pub cells: u16,
    /// The quota: most regions of a side on a connection at a time.
    pub regions: usize,
    /// Messages that the server's socket holds, but for bells, which need no room.
    pub socket: usize,
    /// Whether the worker may sleep on the state word.
    pub bell_word: bool,
    /// Whether the worker may sleep in its poller.
    pub bell_socket: bool,
    /// Whether the server may be killed.
    pub kill_server: bool,
    /// Whether the client may be killed.
    pub kill_client: bool,
    /// Whether the server may stop.
    pub stop: bool,
    /// Whether the server may drain.
    pub drain: bool,
    /// Whether the client may lack memory for what the server announces.
    pub client_lacks_memory: bool,
    /// Lives of the server, one after the other.
    pub lives: u8,
    /// How often a call is repeated.
    pub repeats: u8,
    /// Whether quiet connections give memory back.
    pub tidy: bool,
    /// The defect.
    pub mutant: Option<Mutant>,
}

const CALL: Kind = Kind {
    alone: true,
    far_request: false,
    far_reply: false,
    answered: Answered::Now,
    impatient: false,
    idempotent: false,
};
const SUBMIT: Kind = Kind { alone: false, ..CALL };

impl Config {
    fn base(name: &'static str, about: &'static str, callers: Vec<Vec<Kind>>) -> Config {
        Config {
            name,
            about,
            callers,
            cells: 3,
            regions: 2,
            socket: 8,
            bell_word: true,
            bell_socket: true,
            kill_server: false,
            kill_client: false,
            stop: false,
            drain: false,
            client_lacks_memory: false,
            lives: 1,
            repeats: 0,
            tidy: false,
            mutant: None,
        }
    }

    /// The same with a defect.
    pub fn with(mut self, mutant: Mutant) -> Config {
        self.mutant = Some(mutant);
        self
    }

    /// All scenarios.
    pub fn all() -> Vec<Config> {
        let late = Kind { answered: Answered::Either, ..CALL };
        let late_submit = Kind { answered: Answered::Either, ..SUBMIT };
        let hasty = Kind { impatient: true, ..late };
        let far = Kind { far_request: true, far_reply: true, ..CALL };
        let far_late = Kind { answered: Answered::Later, ..far };
        let far_hasty = Kind { impatient: true, ..far_late };
        let again = Kind { idempotent: true, ..CALL };
        let ask = Kind { far_request: true, ..CALL };
        let hasty_ask = Kind { impatient: true, ..ask };
        vec![
            Config::base(
                "calls",
                "lone calls, detours, the lease, sleeping and waking of both sides",
                vec![vec![CALL, CALL, CALL], vec![CALL, SUBMIT]],
            ),
            Config::base(
                "deferred",
                "calls that are answered by the worker or by another thread, in any order",
                vec![vec![late, CALL], vec![late_submit, CALL]],
            ),
            Config::base(
                "cancel",
                "calls that are given up at any moment, and their cells",
                vec![vec![hasty, CALL], vec![hasty]],
            ),
            Config {
                tidy: true,
                ..Config::base(
                    "memory",
                    "payloads in regions: announced, used again, retired, released, given up",
                    vec![vec![far_hasty, far], vec![far]],
                )
            },
            Config {
                tidy: true,
                ..Config::base(
                    "spare",
                    "lone far calls in one place: the memory of the last request, used again, let go of, taken by another",
                    vec![vec![far, ask], vec![ask, SUBMIT]],
                )
            },
            Config {
                tidy: true,
                regions: 1,
                socket: 1,
                ..Config::base(
                    "room",
                    "two callers that make room at once, while the server has not read its socket",
                    vec![vec![SUBMIT, hasty_ask], vec![ask, CALL]],
                )
            },
            Config {
                kill_server: true,
                lives: 2,
                repeats: 1,
                ..Config::base(
                    "server-dies",
                    "the server killed at any moment, its successor, repeated calls",
                    vec![vec![CALL, again], vec![late_submit]],
                )
            },
            Config {
                kill_server: true,
                client_lacks_memory: true,
                lives: 2,
                repeats: 1,
                regions: 1,
                bell_word: false,
                ..Config::base(
                    "memory-dies",
                    "the server killed while memory is announced and read; a client that cannot map it",
                    vec![vec![Kind { far_request: false, ..far_late }], vec![far]],
                )
            },
            Config {
                stop: true,
                lives: 2,
                repeats: 1,
                ..Config::base(
                    "stop",
                    "a server that stops at any moment: the barrier, what was taken, its successor",
                    vec![vec![CALL, CALL], vec![late_submit]],
                )
            },
            Config {
                drain: true,
                lives: 2,
                ..Config::base(
                    "drain",
                    "a server that drains: what was taken is answered, its successor",
                    vec![vec![late, CALL], vec![late_submit]],
                )
            },
            Config {
                kill_client: true,
                tidy: true,
                ..Config::base(
                    "client-dies",
                    "the client killed at any moment: the server keeps nothing of it",
                    vec![vec![hasty], vec![far_late]],
                )
            },
            Config {
                kill_server: true,
                kill_client: true,
                stop: true,
                drain: true,
                client_lacks_memory: true,
                lives: 2,
                repeats: 1,
                tidy: true,
                ..Config::base(
                    "all",
                    "everything at once",
                    vec![
                        vec![CALL, Kind { answered: Answered::Either, ..far_hasty }, again],
                        vec![late_submit, far],
                    ],
                )
            },
        ]
    }

    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Config> {
        Config::all().into_iter().find(|config| config.name == name)
    }
}
