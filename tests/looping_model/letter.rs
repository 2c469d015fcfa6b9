//! What a message says: who posted it, which one it is, what its receiver is asked for. All of its bytes follow from
//! that, so that whoever gets it can tell each of them.

use ringport::MessageEvent;
use rkyv::{Archive, Deserialize, Serialize};

use super::model::End;

/// How a letter becomes a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// No byte at all.
    Empty,
    /// Bytes that are no archive of [`Typed`].
    Raw,
    Typed,
}

/// What a far end is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Nothing,
    /// So many answers, with the first of them the ports that came along.
    Answers(u64),
    /// To close its end.
    Close,
}

impl Wish {
    fn word(self) -> u64 {
        match self {
            Wish::Nothing => 0,
            Wish::Answers(count) => 1 + count,
            Wish::Close => u64::MAX,
        }
    }

    fn of_word(word: u64) -> Wish {
        match word {
            0 => Wish::Nothing,
            u64::MAX => Wish::Close,
            more => Wish::Answers(more - 1),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The end it is posted on.
    pub from: End,
    /// How many were posted there before.
    pub number: u64,
    pub form: Form,
    pub wish: Wish,
    /// Bytes without meaning.
    pub filler: usize,
}

/// A letter as an archive.
#[derive(Archive, Serialize, Deserialize)]
pub struct Typed {
    words: [u64; 3],
    filler: Vec<u8>,
}

/// Words of a raw letter before the filler, and after it.
const HEAD: usize = 3;
const TAIL: usize = 2;

impl Letter {
    /// Bytes of a raw one without filler.
    pub const SHORTEST: usize = (HEAD + TAIL) * 8;

    /// What a far end posts as its number `number`.
    pub fn answer(from: End, number: u64, with_ports: bool) -> Letter {
        let form = match number % 4 {
            0 => Form::Typed,
            1 if !with_ports => Form::Empty,
            _ => Form::Raw,
        };
        Letter {
            from,
            number,
            form,
            wish: Wish::Nothing,
            filler: (number * 7 % 60) as usize,
        }
    }

    fn words(&self) -> [u64; HEAD] {
        [self.from as u64, self.number, self.wish.word()]
    }

    fn fill(&self) -> Vec<u8> {
        let seed = (self.from as u64) << 20 ^ self.number;
        let pattern = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        let bytes = pattern.into_iter().cycle().zip(0u8..=250);
        let bytes = bytes.map(|(byte, index)| byte ^ index);
        bytes.cycle().take(self.filler).collect()
    }

    pub fn raw(&self) -> Vec<u8> {
        if self.form == Form::Empty {
            return Vec::new();
        }
        let mut bytes = self.words().map(u64::to_le_bytes).concat();
        bytes.extend(self.fill());
        // An archive ends with where its vector is, and that would be nowhere.
        bytes.extend([0xff; TAIL * 8]);
        bytes
    }

    pub fn typed(&self) -> Typed {
        Typed {
            words: self.words(),
            filler: self.fill(),
        }
    }

    /// More bytes of a ring than its message takes up.
    pub fn most_room(&self, ports: usize) -> usize {
        let items = ports.next_multiple_of(16);
        (8 + items + self.filler + Letter::SHORTEST).next_multiple_of(64) + 64
    }

    /// Whether a message with these bytes, which may be such an archive, is this letter, to the last byte.
    pub fn is_in(&self, bytes: &[u8], typed: Option<&ArchivedTyped>) -> bool {
        match (self.form, typed) {
            (Form::Empty | Form::Raw, None) => bytes == self.raw(),
            (Form::Typed, Some(typed)) => {
                let words = typed.words.iter().map(|word| word.to_native());
                words.eq(self.words()) && typed.filler.as_slice() == self.fill()
            }
            _ => false,
        }
    }

    /// The letter that a message claims to be; whether it is, is to be seen.
    pub fn read(event: &MessageEvent<'_>) -> Option<Letter> {
        let (words, form, filler) = match event.data::<Typed>() {
            Ok(typed) => {
                let words = typed.words.map(|word| word.to_native());
                (words, Form::Typed, typed.filler.len())
            }
            Err(_) => {
                let filler = event.len().checked_sub(Letter::SHORTEST)?;
                let word = |index: usize| {
                    let bytes = &event.bytes()[index * 8..][..8];
                    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
                };
                ([word(0), word(1), word(2)], Form::Raw, filler)
            }
        };
        Some(Letter {
            from: words[0] as End,
            number: words[1],
            form,
            wish: Wish::of_word(words[2]),
            filler,
        })
    }
}
