//! Posting in every way there is, and what may come of it.

use ringport::{CloseReason, EventLoop, MessagePort, PostError};

use super::letter::{Form, Letter, Wish};
use super::model::{End, Fate, Model, Place, peer};
use super::world::{World, count};

/// Messages with ports that may wait in one direction.
const MOST_TRANSFERS: usize = 64;
/// Answers that a far end may owe: they fit the smallest ring, so that it never waits for room.
const MOST_PROMISED: usize = 12;

impl<'h> World {
    /// Does something with a port, wherever it is here. `None` if the loop has let it go meanwhile.
    pub fn with_port<R>(
        &self,
        events: &EventLoop<'h>,
        end: End,
        act: impl FnOnce(&MessagePort) -> R,
    ) -> Option<R> {
        let place = self.model.borrow().side(end).place;
        match place {
            Place::Held => Some(act(&self.held.borrow()[&end])),
            Place::Looped(port) => {
                let Some(attached) = events.port(port) else {
                    assert!(self.has_left(events, end));
                    return None;
                };
                Some(act(&attached))
            }
            elsewhere => panic!("end {end} is {elsewhere:?}"),
        }
    }

    fn letter(&self, from: End, number: u64, with_ports: bool) -> Letter {
        let model = self.model.borrow();
        let other = model.side(peer(from));
        let owes = model.side(from).inbox.len();
        let is_far = other.place == Place::Far && other.fate == Fate::Open;
        let wish = match self.below(40) {
            _ if !is_far => Wish::Nothing,
            0 if !with_ports => Wish::Close,
            1..20 if owes < MOST_PROMISED => Wish::Answers(1 + self.below(3)),
            _ if with_ports => Wish::Answers(1),
            _ => Wish::Nothing,
        };
        let form = match self.below(8) {
            0 if wish == Wish::Nothing => Form::Empty,
            1..4 => Form::Typed,
            _ => Form::Raw,
        };
        let most = (model.side(from).capacity as u64 / 2 - 200).min(2000);
        let filler = match (form, self.below(50)) {
            (Form::Empty, _) => 0,
            (_, 0) => self.below(most),
            _ => self.below(100),
        };
        Letter {
            from,
            number,
            form,
            wish,
            filler: filler as usize,
        }
    }

    /// Whether a far end could take ports along to send them back.
    pub fn can_ask(&self, from: End) -> bool {
        let model = self.model.borrow();
        let is_far = model.side(peer(from)).place == Place::Far;
        !is_far || model.side(from).inbox.len() < MOST_PROMISED
    }

    /// Posts one message without ports; says whether it went.
    pub fn post(&self, events: &EventLoop<'h>, from: End) -> bool {
        let number = self.model.borrow().side(from).next;
        let letter = self.letter(from, number, false);
        let in_slot = self.one_in(5);
        let answer = self.with_port(events, from, |port| match letter.form {
            Form::Typed => port.try_post_message(&letter.typed()),
            _ if in_slot => {
                let bytes = letter.raw();
                let mut slot = port.try_reserve(bytes.len())?;
                slot.write(&bytes);
                slot.commit();
                Ok(())
            }
            _ => port.try_post_bytes(&letter.raw()),
        });
        answer.is_some_and(|answer| self.judge(letter, Vec::new(), answer.as_ref(), 0))
    }

    /// Posts several that become visible at once, or takes them all back.
    pub fn post_batch(&self, events: &EventLoop<'h>, from: End) {
        let first = self.model.borrow().side(from).next;
        let wanted = 1 + self.below(6);
        let letters: Vec<_> = (first..first + wanted)
            .map(|number| self.letter(from, number, false))
            .collect();
        let take_back = self.one_in(5);
        let posted = self.with_port(events, from, |port| {
            let mut batch = port.batch();
            let mut answers = Vec::new();
            for letter in &letters {
                answers.push(match letter.form {
                    Form::Typed => batch.post(&letter.typed()),
                    _ => batch.post_bytes(&letter.raw()),
                });
                if answers.last().is_some_and(Result::is_err) {
                    break;
                }
            }
            let drafted = answers.iter().filter(|answer| answer.is_ok()).count();
            if drafted > 0 {
                let busy = port.try_post_bytes(b"");
                // It may have learned meanwhile that the other end is gone.
                assert!(matches!(busy, Err(PostError::Busy | PostError::Closed(_))));
            }
            if take_back {
                drop(batch);
                answers.retain(Result::is_err);
            } else {
                assert_eq!(batch.publish(), drafted);
            }
            answers
        });
        let mut ahead = 0;
        for (letter, answer) in letters.iter().zip(posted.unwrap_or_default()) {
            // What was drafted before the one that failed took room too; some of it may be taken back by now.
            let drafted = if answer.is_err() {
                usize::MAX / 2
            } else {
                ahead
            };
            self.judge(*letter, Vec::new(), answer.as_ref(), drafted);
            ahead += letter.most_room(0);
        }
    }

    /// Posts a message with these ports, which are none of the loop's any more; those that did not go are held.
    pub fn post_with(
        &self,
        events: &EventLoop<'h>,
        from: End,
        cargo: Vec<End>,
        ports: Vec<MessagePort>,
    ) -> bool {
        let number = self.model.borrow().side(from).next;
        let letter = self.letter(from, number, true);
        let mut ports = Some(ports);
        let answer = self.with_port(events, from, |port| {
            let ports = ports.take().expect("posted once");
            let answer = match letter.form {
                Form::Typed => port.try_post_message_with(&letter.typed(), ports),
                _ => port.try_post_bytes_with(&letter.raw(), ports),
            };
            answer.map_err(|error| error.into_parts())
        });
        let (answer, back) = match answer {
            Some(Ok(())) => (Some(Ok(())), Vec::new()),
            Some(Err((error, back))) => (Some(Err(error)), back),
            None => (None, ports.take().unwrap_or_default()),
        };
        if !back.is_empty() {
            assert_eq!(back.len(), cargo.len());
        }
        for (end, port) in cargo.iter().zip(back) {
            self.hold(*end, port);
        }
        answer.is_some_and(|answer| self.judge(letter, cargo, answer.as_ref(), 0))
    }

    /// In a room handler: there must be as much room as was asked for.
    pub fn post_where_there_is_room(&self, port: &MessagePort, end: End, len: usize) {
        let model = self.model.borrow();
        let other = model.side(peer(end));
        assert_eq!(
            model.side(end).fate,
            Fate::Open,
            "room after end {end} was closed"
        );
        assert!(
            other.fate != Fate::Closed || other.late,
            "room at end {end}, whose peer had closed"
        );
        let letter = Letter {
            from: end,
            number: model.side(end).next,
            form: Form::Raw,
            wish: Wish::Nothing,
            filler: len - Letter::SHORTEST,
        };
        drop(model);
        let answer = port.try_post_bytes(&letter.raw());
        assert!(
            !matches!(answer, Err(PostError::Full { .. })),
            "end {end} was told of room for {len} bytes: {answer:?}"
        );
        self.judge(letter, Vec::new(), answer.as_ref(), 0);
    }

    /// Says whether it was posted, having made sure that the answer is one that may be. `ahead`: bytes in the ring
    /// that the model does not know of.
    fn judge(
        &self,
        letter: Letter,
        cargo: Vec<End>,
        answer: Result<&(), &PostError>,
        ahead: usize,
    ) -> bool {
        let mut model = self.model.borrow_mut();
        let from = letter.from;
        let (own, other) = (model.side(from), model.side(peer(from)));
        // Nobody here knows how far the one at the other end is.
        let is_vague = other.place == Place::Far || other.fate != Fate::Open;
        let (bytes, transfers) = model.load(from);
        let need = letter.most_room(cargo.len());
        // A message that is being handled may take up to half of the ring.
        let is_roomy = bytes + ahead + 2 * need < own.capacity / 2;
        let is_sound = match answer {
            Ok(()) => {
                let is_known_to_be_closed = other.fate == Fate::Closed && !other.late;
                let has_place = cargo.is_empty() || transfers < MOST_TRANSFERS || is_vague;
                own.fate == Fate::Open && !is_known_to_be_closed && has_place
            }
            Err(PostError::Full { .. }) => own.fate == Fate::Open && (is_vague || !is_roomy),
            Err(PostError::TransfersFull { .. }) => {
                let is_full = transfers >= MOST_TRANSFERS || is_vague;
                own.fate == Fate::Open && !cargo.is_empty() && is_full
            }
            Err(PostError::Closed(CloseReason::ClosedHere)) => own.fate == Fate::Closed,
            Err(PostError::Closed(reason)) => {
                own.fate == Fate::Open && other.fate.explains(*reason)
            }
            Err(_) => false,
        };
        assert!(
            is_sound,
            "{letter:?} with {cargo:?}: {answer:?}, by {own:?} to {other:?}"
        );
        if answer.is_err() {
            count(&self.tally.refused);
            return false;
        }
        self.energy.set(self.energy.get().saturating_sub(1));
        self.trace("posted", from, letter.number);
        for _ in &cargo {
            count(&self.tally.moved);
        }
        if other.fate != Fate::Open {
            // It was posted while the other end was going. Nobody will see it.
            model.side_mut(from).next += 1;
            cargo.into_iter().for_each(|end| model.vanish(end));
        } else if other.place == Place::Far {
            promise(&mut model, letter, cargo);
        } else {
            model.post(letter, cargo, true);
        }
        true
    }
}

/// What the far end is going to do about it.
fn promise(model: &mut Model, letter: Letter, mut cargo: Vec<End>) {
    model.side_mut(letter.from).next += 1;
    let far = peer(letter.from);
    match letter.wish {
        Wish::Nothing => assert!(cargo.is_empty()),
        Wish::Close => {
            model.side_mut(far).late = true;
            model.side_mut(far).fate = Fate::Closed;
        }
        Wish::Answers(count) => {
            for _ in 0..count {
                let number = model.side(far).next;
                let answer = Letter::answer(far, number, !cargo.is_empty());
                model.post(answer, std::mem::take(&mut cargo), false);
            }
        }
    }
}
