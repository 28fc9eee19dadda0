//! The commands that are interrupted, and what may be so after it.

use crate::probe::Seen;
use crate::support::is_guest;

/// The command that is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    First,
    Replace,
    Detach,
    /// `apply --confirm-within` over another policy, and the confirmation and the undo of what it
    /// has put in force.
    Trial,
    Confirm,
    Undo,
    /// `apply --candidate` over another policy, and `promote` of what it has put beside that.
    Watch,
    Promote,
    /// The beginning of `run`: `Begin` where nothing is attached, `BeginOver` over another policy.
    Begin,
    BeginOver,
    /// The end of `run`: `Leave` detaches its policy, `Return` puts the one before it back.
    Leave,
    Return,
}

impl Scenario {
    const ALL: [Scenario; 12] = [
        Scenario::First,
        Scenario::Replace,
        Scenario::Detach,
        Scenario::Trial,
        Scenario::Confirm,
        Scenario::Undo,
        Scenario::Watch,
        Scenario::Promote,
        Scenario::Begin,
        Scenario::BeginOver,
        Scenario::Leave,
        Scenario::Return,
    ];

    /// Those of a normal run. A guest has emulated, slow processors: there it is about what the
    /// kernel does at an attachment, a swap, a removal and a gate, of which the others are made.
    pub(super) fn tried_here() -> &'static [Scenario] {
        match is_guest() {
            true => &Scenario::ALL[..5],
            false => &Scenario::ALL,
        }
    }

    pub(super) fn is_run(self) -> bool {
        matches!(
            self,
            Scenario::Begin | Scenario::BeginOver | Scenario::Leave | Scenario::Return
        )
    }

    pub(super) fn is_end_of_run(self) -> bool {
        matches!(self, Scenario::Leave | Scenario::Return)
    }

    /// In a normal run, a kind of fault is tried with a hook at one point in so many.
    pub(super) fn share(self) -> usize {
        match self {
            Scenario::First | Scenario::Replace | Scenario::Detach if is_guest() => 24,
            _ if is_guest() => 48,
            Scenario::First | Scenario::Replace | Scenario::Detach => 8,
            _ => 16,
        }
    }

    /// Whether policy A is in force before the command.
    pub(super) fn is_over(self) -> bool {
        !matches!(self, Scenario::First | Scenario::Begin | Scenario::Leave)
    }

    /// What packets show if the command succeeds. For `run`, this is the state after its end.
    pub(super) fn goal(self) -> Seen {
        match self {
            Scenario::First
            | Scenario::Replace
            | Scenario::Trial
            | Scenario::Confirm
            | Scenario::Promote => Seen::B,
            Scenario::Undo | Scenario::Watch | Scenario::BeginOver | Scenario::Return => Seen::A,
            Scenario::Detach | Scenario::Begin | Scenario::Leave => Seen::Open,
        }
    }

    /// What packets may show in each direction after the interruption.
    pub(super) fn allowed(self) -> &'static [Seen] {
        match self {
            Scenario::Replace
            | Scenario::Trial
            | Scenario::Undo
            | Scenario::Promote
            | Scenario::BeginOver
            | Scenario::Return => &[Seen::A, Seen::B],
            Scenario::Confirm => &[Seen::B],
            // A candidate changes no verdict, however far it came.
            Scenario::Watch => &[Seen::A],
            Scenario::First | Scenario::Begin | Scenario::Leave => &[Seen::Open, Seen::B],
            Scenario::Detach => &[Seen::A, Seen::Open],
        }
    }

    /// Whether the command detaches one direction after the other, so that it may end half-way.
    pub(super) fn takes_away(self) -> bool {
        matches!(self, Scenario::Detach | Scenario::Leave)
    }
}
