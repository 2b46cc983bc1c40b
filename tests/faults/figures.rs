//! Counts and times over all scenarios that show how often each promise was exercised.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// A counter, or the maximum of a measured time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    Increments,
    IncrementsUnknown,
    NotApplied,
    TermLog,
    FencedWrites,
    FencedNotApplied,
    Terms,
    Additions,
    AdditionsUnknown,
    Transfers,
    TransfersUnknown,
    Audits,
    Watches,
    Events,
    LongestConvergence,
    PlainReads,
    PlainReadsStale,
    PlainReadsLongest,
    AtLeastReads,
    LeaderReads,
    LeaderReadsStale,
    LeaderReadsLongest,
    WritesApplied,
    WritesSettled,
    WritesUnknown,
    Searched,
    KeysGivenUp,
    LeaseRounds,
    LeasesHeld,
    Takeovers,
    LongestTakeover,
    TakeoversWithLeader,
    LongestTakeoverWithLeader,
    FileKills,
    FileKillsWrites,
    PowerLosses,
    PowerLossesWrites,
    RecoveryLosses,
    Recoveries,
    UnsyncedLosses,
    UnsyncedLossesLost,
    FileTakeovers,
    LongestFileTakeover,
    DisksFull,
    DisksFullRefused,
    FailedCalls,
    FailedCallsEnded,
    LargestFile,
    LargestFileOpen,
}

/// The figures of one scenario, or of all scenarios.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures(BTreeMap<Figure, u64>);

impl Figures {
    pub(crate) fn add(&mut self, figure: Figure, count: usize) {
        *self.0.entry(figure).or_default() += count as u64;
    }

    pub(crate) fn longest(&mut self, figure: Figure, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let longest = self.0.entry(figure).or_default();
        *longest = millis.max(*longest);
    }

    /// Merges the figures of another scenario.
    pub(crate) fn take_in(&mut self, other: &Self) {
        for (figure, value) in &other.0 {
            let ours = self.0.entry(*figure).or_default();
            *ours = if figure.is_a_time() { *value.max(ours) } else { *ours + value };
        }
    }

    fn get(&self, figure: Figure) -> u64 {
        self.0.get(&figure).copied().unwrap_or_default()
    }

    /// Returns a Markdown list of the promises that have figures.
    pub(crate) fn promises(&self) -> String {
        use Figure::*;
        let count = |figure| self.get(figure);
        let seconds = |figure| format!("{:.1} s", self.get(figure) as f64 / 1_000.0);
        let lines = [
            (
                Increments,
                "`modify` loses no increment, and applies none twice (P2)",
                format!("{} acknowledged, {} unknown", count(Increments), count(IncrementsUnknown)),
            ),
            (
                NotApplied,
                "A write that is reported as not applied is not stored (P4)",
                format!("{} writes refused or failed, none of them stored", count(NotApplied)),
            ),
            (
                TermLog,
                "At most one guard is valid at a time, fences grow, and a stale fence is refused (P10 to P12)",
                format!(
                    "{} terms of locks; {} fenced writes, {} of them not applied",
                    count(TermLog),
                    count(FencedWrites),
                    count(FencedNotApplied)
                ),
            ),
            (
                LeaseRounds,
                "A lease of 30 s outlives the loss of the leader (P15)",
                format!("held in {} of {} trials", count(LeasesHeld), count(LeaseRounds)),
            ),
            (
                Takeovers,
                "The lock of a process that dies is free after its TTL, not before (P20)",
                format!(
                    "TTL 6 s: {} taken over within {}; {} within {} with the leader killed, too",
                    count(Takeovers),
                    seconds(LongestTakeover),
                    count(TakeoversWithLeader),
                    seconds(LongestTakeoverWithLeader)
                ),
            ),
            (
                Terms,
                "Terms of leaders grow, and each stops before the next starts (P23)",
                format!("{} terms", count(Terms)),
            ),
            (
                Additions,
                "A counter is the sum of its increments, or reports an unknown outcome (P24)",
                format!("{} increments acknowledged, {} unknown", count(Additions), count(AdditionsUnknown)),
            ),
            (
                Transfers,
                "A transaction is applied as a whole or not at all, and sees one state",
                format!(
                    "{} transfers applied, {} unknown; {} sums over all accounts, all correct",
                    count(Transfers),
                    count(TransfersUnknown),
                    count(Audits)
                ),
            ),
            (
                Watches,
                "Watches, caches and live values reach the state of the leader, in order (P25)",
                format!(
                    "{} handles, {} events; within {} of the last write",
                    count(Watches),
                    count(Events),
                    seconds(LongestConvergence)
                ),
            ),
            (
                AtLeastReads,
                "A read of at least a revision is not older (P29)",
                format!("{} reads, none older", count(AtLeastReads)),
            ),
            (
                LeaderReads,
                "Not guaranteed: reads of a leader that was frozen or cut off are current (P30)",
                format!(
                    "of {} reads of the leader, {} were stale, by {} at most",
                    count(LeaderReads),
                    count(LeaderReadsStale),
                    seconds(LeaderReadsLongest)
                ),
            ),
            (
                PlainReads,
                "Not guaranteed: plain reads are current (P30)",
                format!(
                    "of {} plain reads, {} were stale, by {} at most",
                    count(PlainReads),
                    count(PlainReadsStale),
                    seconds(PlainReadsLongest)
                ),
            ),
            (
                WritesApplied,
                "The results of all writes form one history (P43)",
                format!(
                    "{} writes explained by their revisions (of the unknown ones, reads resolved {} and did not \
                     show {}); {} of them by search, {} keys given up",
                    count(WritesApplied),
                    count(WritesSettled),
                    count(WritesUnknown),
                    count(Searched),
                    count(KeysGivenUp)
                ),
            ),
            (
                FileKills,
                "`file:`: a killed process loses no acknowledged write, and no read or watch returned a lost write (P45)",
                format!("{} kills, {} writes and reads, none lost", count(FileKills), count(FileKillsWrites)),
            ),
            (
                PowerLosses,
                "`file:`: a loss of power loses no acknowledged write (P46)",
                format!(
                    "{} losses of power, during {} writes and reads, none lost",
                    count(PowerLosses),
                    count(PowerLossesWrites)
                ),
            ),
            (
                RecoveryLosses,
                "`file:`: a loss of power during a recovery loses no acknowledged write (P46)",
                format!("{} losses of power in {} recoveries, none lost", count(RecoveryLosses), count(Recoveries)),
            ),
            (
                UnsyncedLosses,
                "Not guaranteed: with `?sync=off`, a loss of power loses no write",
                format!(
                    "{} of {} losses of power lost acknowledged writes",
                    count(UnsyncedLossesLost),
                    count(UnsyncedLosses)
                ),
            ),
            (
                FileTakeovers,
                "`file:`: a second process is refused, and takes over from a process that dies (P47)",
                format!("{} times, within {}", count(FileTakeovers), seconds(LongestFileTakeover)),
            ),
            (
                DisksFull,
                "`file:`: a full disk refuses writes as not applied, and the store continues with room (P48)",
                format!("{} times full, {} refusals, none stored", count(DisksFull), count(DisksFullRefused)),
            ),
            (
                FailedCalls,
                "`file:`: a failed sync or write loses no acknowledged write (P49)",
                format!("{} failures, {} of them ended the store", count(FailedCalls), count(FailedCallsEnded)),
            ),
            (
                LargestFile,
                "`file:`: a store of many records opens with every record",
                format!(
                    "{} records, in {} (a build without optimization)",
                    count(LargestFile),
                    seconds(LargestFileOpen)
                ),
            ),
        ];
        let mut list = String::new();
        for (figure, promise, figures) in lines {
            if count(figure) > 0 {
                let _ = writeln!(list, "* **{promise}:** {figures}.");
            }
        }
        list
    }
}

impl Figure {
    fn is_a_time(self) -> bool {
        matches!(
            self,
            Self::LongestConvergence
                | Self::PlainReadsLongest
                | Self::LeaderReadsLongest
                | Self::LongestTakeover
                | Self::LongestTakeoverWithLeader
                | Self::LongestFileTakeover
                | Self::LargestFileOpen
        )
    }
}
