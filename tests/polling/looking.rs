//! Looking at the descriptors: who must have been told, who is told for nothing, and that an end is told.

use std::task::Poll;
use std::time::Duration;

use ringport::CloseReason;

use super::{End, Model, Watching};
use crate::common::{closed, post_closed};
use crate::gauges::readable;

impl Model {
    /// Looks at the descriptors: whoever waits for what is there must have been told.
    pub fn look(&mut self) {
        let heard = match &self.watching {
            Watching::Level => (0..2)
                .filter(|end| readable(&self.ends[*end].port))
                .collect(),
            Watching::Edge(edges) => edges.heard(Duration::ZERO),
        };
        for end in 0..2 {
            let has_message = !self.ends[1 - end].sent.is_empty();
            let tells = heard.contains(&end);
            let stays = matches!(self.watching, Watching::Level);
            let this = &mut self.ends[end];
            let (written, read) = (this.written, this.read);
            let room = |len| End::is_told_of(this, len);
            let posting = this.posting.is_some_and(|waiting| room(waiting.what));
            let armed = this.armed.is_some_and(|waiting| {
                waiting.what.0 && has_message || waiting.what.1.is_some_and(room)
            });
            let check = |what: &str, there: bool, told: &mut bool| {
                *told = tells || *told && !stays;
                assert!(
                    !there || *told,
                    "a wake-up is lost: end {end} waits for {what}, and it is there ({written}, {read})"
                );
            };
            if let Some(waiting) = &mut this.receiving {
                check("a message", has_message, &mut waiting.told);
            }
            if let Some(waiting) = &mut this.posting {
                check("room", posting, &mut waiting.told);
            }
            if let Some(waiting) = &mut this.armed {
                check("what it was armed for", armed, &mut waiting.told);
            }
        }
    }

    /// Does what a loop would do until all is quiet, which it must be before long.
    pub fn settle(&mut self) {
        let mut vain = 0;
        for _ in 0..1000 {
            assert!(vain < 4, "told again and again, for nothing");
            self.look();
            let told = |end: &End| {
                end.receiving.is_some_and(|waiting| waiting.told)
                    || end.posting.is_some_and(|waiting| waiting.told)
            };
            let Some(end) = (0..2).find(|end| told(&self.ends[*end])) else {
                return;
            };
            let receiving = self.ends[end].receiving.is_some();
            let mut done = receiving && self.poll_recv(end);
            if let Some(waiting) = self.ends[end].posting {
                done |= self.poll_post(end, waiting.what, false);
            }
            let excused = done || self.ends[1 - end].may_clog();
            vain = if excused { 0 } else { vain + 1 };
        }
        // Only who is clogged can be told for so long.
        assert!(self.ends.iter().any(End::may_clog));
    }

    /// The end of one side is told to the other, whatever it waits for.
    pub fn end(self, end: usize) {
        let Model { ends, watching, .. } = self;
        let [first, second] = ends;
        let (gone, left) = if end == 0 {
            (first, second)
        } else {
            (second, first)
        };
        if let Watching::Edge(edges) = &watching {
            edges.heard(Duration::ZERO);
        }
        drop(gone.port);
        let waits = left.receiving.is_some() || left.posting.is_some() || left.armed.is_some();
        let told = match &watching {
            Watching::Level => readable(&left.port),
            Watching::Edge(edges) => edges.heard(Duration::ZERO).contains(&(1 - end)),
        };
        assert!(told || !waits, "the end is not told");
        let mut expected = gone.sent;
        let port = &left.port;
        while let Some(message) = expected.pop_front() {
            match port.poll_recv() {
                Poll::Ready(event) => assert_eq!(event.unwrap().bytes(), message.bytes),
                Poll::Pending => panic!("a message was there"),
            }
        }
        for _ in 0..2 {
            let Poll::Ready(answer) = port.poll_recv() else {
                panic!("pending, after the end");
            };
            assert_eq!(closed(answer), CloseReason::ClosedByPeer);
            let Poll::Ready(answer) = port.poll_post_bytes(b"x") else {
                panic!("pending, after the end");
            };
            assert_eq!(post_closed(answer), CloseReason::ClosedByPeer);
        }
    }
}
