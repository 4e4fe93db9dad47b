//! The stack machine.

use std::collections::HashMap;

use super::{Global, MAX_RANK, Pickle, Storage, Value, View};
use crate::interop::cursor::Cursor;
use crate::interop::error::PickleFault;

type Step<T> = Result<T, PickleFault>;

/// Runs a pickle to its end; an error comes with the place of its opcode.
pub(in crate::interop) fn read(bytes: &[u8]) -> Result<Pickle<'_>, (usize, PickleFault)> {
    let input = Cursor::new(bytes, 0).expect("the beginning is in the bytes");
    let mut machine = Machine {
        input,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        built: Pickle {
            root: Value::None,
            tuples: Vec::new(),
            lists: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        },
    };
    loop {
        let at = machine.input.position();
        if let Some(root) = machine.step().map_err(|fault| (at, fault))? {
            machine.built.root = root;
            return Ok(machine.built);
        }
    }
}

struct Machine<'a> {
    input: Cursor<'a>,
    stack: Vec<Value<'a>>,
    /// How high the stack was at each mark.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    built: Pickle<'a>,
}

impl<'a> Machine<'a> {
    /// One opcode; the result at the last.
    fn step(&mut self) -> Step<Option<Value<'a>>> {
        let opcode = self.input.u8().ok_or(PickleFault::Truncated)?;
        match opcode {
            b'.' => return self.pop().map(Some),
            0x80 => self.protocol()?,
            // Frames only say how much to read at once.
            0x95 => self.number(Cursor::u64).map(|_| ())?,
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.duplicate()?,
            b'N' => self.stack.push(Value::None),
            0x88 | 0x89 => self.stack.push(Value::Bool),
            b'J' => self.int(|input| input.u32().map(|number| number.cast_signed().into()))?,
            b'K' => self.int(|input| input.u8().map(i64::from))?,
            b'M' => self.int(|input| input.u16().map(i64::from))?,
            0x8a => self.long(|input| input.u8().map(u64::from))?,
            0x8b => self.long(|input| input.u32().map(u64::from))?,
            b'G' => self.take(8).map(|_| self.stack.push(Value::Float))?,
            b'X' => self.text(|input| input.u32().map(u64::from))?,
            0x8c => self.text(|input| input.u8().map(u64::from))?,
            0x8d => self.text(Cursor::u64)?,
            b'B' => self.bytes(|input| input.u32().map(u64::from))?,
            b'C' => self.bytes(|input| input.u8().map(u64::from))?,
            0x8e => self.bytes(Cursor::u64)?,
            b')' => self.tuple(Vec::new()),
            0x85..=0x87 => self.tuple_of(usize::from(opcode - 0x84))?,
            b't' => self.pop_to_mark().map(|items| self.tuple(items))?,
            b']' => self.list(),
            b'}' => self.dict(),
            b'a' => self.append()?,
            b'e' => self.pop_to_mark().and_then(|items| self.extend(items))?,
            b's' => self.set_item()?,
            b'u' => self.pop_to_mark().and_then(|items| self.set_items(&items))?,
            b'q' => self.put(|input| input.u8().map(u32::from))?,
            b'r' => self.put(Cursor::u32)?,
            0x94 => self.memoize()?,
            b'h' => self.get(|input| input.u8().map(u32::from))?,
            b'j' => self.get(Cursor::u32)?,
            b'c' => self.global()?,
            0x93 => self.stack_global()?,
            b'Q' => self.persistent()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            other => return Err(PickleFault::Opcode(other)),
        }
        Ok(None)
    }

    fn protocol(&mut self) -> Step<()> {
        match self.number(Cursor::u8)? {
            2..=5 => Ok(()),
            other => Err(PickleFault::Protocol(other)),
        }
    }

    fn number<T>(&mut self, read: impl Fn(&mut Cursor<'a>) -> Option<T>) -> Step<T> {
        read(&mut self.input).ok_or(PickleFault::Truncated)
    }

    fn take(&mut self, len: u64) -> Step<&'a [u8]> {
        self.input.take(len).ok_or(PickleFault::Truncated)
    }

    fn int(&mut self, read: impl Fn(&mut Cursor<'a>) -> Option<i64>) -> Step<()> {
        let number = self.number(read)?;
        self.stack.push(Value::Int(Some(number)));
        Ok(())
    }

    /// Two's complement of any length.
    fn long(&mut self, len: impl Fn(&mut Cursor<'a>) -> Option<u64>) -> Step<()> {
        let len = self.number(len)?;
        let bytes = self.take(len)?;
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let (low, high) = bytes.split_at(bytes.len().min(8));
        let mut whole = [sign; 8];
        whole[..low.len()].copy_from_slice(low);
        let number = i64::from_le_bytes(whole);
        // What lies above only repeats the sign, or the number is not of 64 bits.
        let fits = high.iter().all(|&byte| byte == sign) && number.is_negative() == (sign != 0);
        self.stack.push(Value::Int(fits.then_some(number)));
        Ok(())
    }

    fn text(&mut self, len: impl Fn(&mut Cursor<'a>) -> Option<u64>) -> Step<()> {
        let len = self.number(len)?;
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| PickleFault::NotText)?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn bytes(&mut self, len: impl Fn(&mut Cursor<'a>) -> Option<u64>) -> Step<()> {
        let len = self.number(len)?;
        self.take(len)?;
        self.stack.push(Value::Bytes);
        Ok(())
    }

    /// The highest value, if it lies above the last mark.
    fn pop(&mut self) -> Step<Value<'a>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(PickleFault::Stack);
        }
        self.stack.pop().ok_or(PickleFault::Stack)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or(PickleFault::Stack)?;
        Ok(self.stack.split_off(mark))
    }

    fn duplicate(&mut self) -> Step<()> {
        let value = self.pop()?;
        self.stack.extend([value, value]);
        Ok(())
    }

    fn tuple(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Tuple(self.built.tuples.len()));
        self.built.tuples.push(items);
    }

    fn tuple_of(&mut self, len: usize) -> Step<()> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let begin = self.stack.len().checked_sub(len).filter(|&begin| begin >= floor).ok_or(PickleFault::Stack)?;
        let items = self.stack.split_off(begin);
        self.tuple(items);
        Ok(())
    }

    fn list(&mut self) {
        self.stack.push(Value::List(self.built.lists.len()));
        self.built.lists.push(Vec::new());
    }

    fn dict(&mut self) {
        self.stack.push(Value::Dict(self.built.dicts.len()));
        self.built.dicts.push(Vec::new());
    }

    fn append(&mut self) -> Step<()> {
        let item = self.pop()?;
        self.extend(vec![item])
    }

    /// Adds to the list that is on top, and leaves it there.
    fn extend(&mut self, items: Vec<Value<'a>>) -> Step<()> {
        let list = self.pop()?;
        let Value::List(place) = list else {
            return Err(PickleFault::Type { expected: "a list", found: list.kind() });
        };
        self.built.lists[place].extend(items);
        self.stack.push(list);
        Ok(())
    }

    fn set_item(&mut self) -> Step<()> {
        let (value, key) = (self.pop()?, self.pop()?);
        self.set_items(&[key, value])
    }

    /// Adds keys, each with its value behind it, to the dictionary that is on top, and leaves it there.
    fn set_items(&mut self, items: &[Value<'a>]) -> Step<()> {
        let (pairs, rest) = items.as_chunks();
        let dict = self.pop()?;
        let (Value::Dict(place), []) = (dict, rest) else {
            return Err(PickleFault::Type { expected: "a dictionary and pairs to put into it", found: dict.kind() });
        };
        self.built.dicts[place].extend(pairs.iter().map(|&[key, value]| (key, value)));
        self.stack.push(dict);
        Ok(())
    }

    fn put(&mut self, read: impl Fn(&mut Cursor<'a>) -> Option<u32>) -> Step<()> {
        let place = self.number(read)?;
        self.remember(place)
    }

    fn memoize(&mut self) -> Step<()> {
        self.remember(self.memo.len() as u32)
    }

    fn remember(&mut self, place: u32) -> Step<()> {
        let value = self.pop()?;
        self.memo.insert(place, value);
        self.stack.push(value);
        Ok(())
    }

    fn get(&mut self, read: impl Fn(&mut Cursor<'a>) -> Option<u32>) -> Step<()> {
        let place = self.number(read)?;
        let value = *self.memo.get(&place).ok_or(PickleFault::Memo(place))?;
        self.stack.push(value);
        Ok(())
    }

    fn global(&mut self) -> Step<()> {
        let mut line = || {
            let line = self.input.line().ok_or(PickleFault::Truncated)?;
            std::str::from_utf8(line).map_err(|_| PickleFault::NotText)
        };
        let (module, name) = (line()?, line()?);
        self.push_global(module, name)
    }

    fn stack_global(&mut self) -> Step<()> {
        match (self.pop()?, self.pop()?) {
            (Value::Text(name), Value::Text(module)) => self.push_global(module, name),
            (name, _) => Err(PickleFault::Type { expected: "the name of a class", found: name.kind() }),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Step<()> {
        let global = Global::named(module, name).ok_or_else(|| PickleFault::Global(format!("{module}.{name}")))?;
        self.stack.push(Value::Global(global));
        Ok(())
    }

    /// `('storage', torch.FloatStorage, key, device, numbers)`.
    fn persistent(&mut self) -> Step<()> {
        let id = self.pop()?;
        let storage = match self.fields(id) {
            [Value::Text("storage"), Value::Global(Global::Storage(kind)), Value::Text(key), ..] => {
                Storage { kind: *kind, key }
            }
            _ => return Err(PickleFault::Call("a storage")),
        };
        self.stack.push(Value::Storage(self.built.storages.len()));
        self.built.storages.push(storage);
        Ok(())
    }

    /// A call of one of the names that [`Global`] knows.
    fn reduce(&mut self) -> Step<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        match callable {
            Value::Global(Global::OrderedDict) if matches!(arguments, Value::Tuple(_)) => {
                match self.fields(arguments) {
                    [] => self.dict(),
                    _ => return Err(PickleFault::Call("collections.OrderedDict")),
                }
            }
            Value::Global(Global::RebuildTensor) => {
                let view = self.view(arguments).ok_or(PickleFault::Call("torch._utils._rebuild_tensor_v2"))?;
                self.stack.push(Value::Tensor(self.built.tensors.len()));
                self.built.tensors.push(view);
            }
            // Its data is a tensor; whether it is trained, and what hooks it had, is nothing to us.
            Value::Global(Global::RebuildParameter) => match self.fields(arguments) {
                &[data @ Value::Tensor(_), ..] => self.stack.push(data),
                _ => return Err(PickleFault::Call("torch._utils._rebuild_parameter")),
            },
            Value::Global(_) => return Err(PickleFault::Call("a class")),
            other => return Err(PickleFault::Type { expected: "something to call", found: other.kind() }),
        }
        Ok(())
    }

    /// Attributes of an object. A state dictionary has `_metadata`, the versions of its modules, which is nothing to us.
    fn build(&mut self) -> Step<()> {
        let (_state, object) = (self.pop()?, self.pop()?);
        let Value::Dict(_) = object else {
            return Err(PickleFault::Type { expected: "a dictionary", found: object.kind() });
        };
        self.stack.push(object);
        Ok(())
    }

    /// The items of a tuple; nothing of any other value.
    fn fields(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::Tuple(place) => &self.built.tuples[place],
            _ => &[],
        }
    }

    /// `(storage, offset, size, stride, requires_grad, backward_hooks)`.
    fn view(&self, arguments: Value<'a>) -> Option<View> {
        let &[Value::Storage(storage), offset, size, stride, ..] = self.fields(arguments) else { return None };
        let Value::Tuple(_) = size else { return None };
        let (shape, strides) = (self.sizes(size)?, self.sizes(stride)?);
        let offset = index(offset)?;
        (shape.len() == strides.len()).then_some(View { storage, offset, shape, strides })
    }

    fn sizes(&self, value: Value<'a>) -> Option<Vec<usize>> {
        let fields = self.fields(value);
        if fields.len() > MAX_RANK {
            return None;
        }
        fields.iter().map(|&field| index(field)).collect()
    }
}

/// A number that is no less than 0.
fn index(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(Some(number)) => usize::try_from(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(bytes: &[u8]) -> String {
        let (at, fault) = read(bytes).expect_err("refused");
        format!("{at}: {fault}")
    }

    #[test]
    fn dictionaries_lists_and_numbers_of_every_protocol_are_built() {
        // pickle.dumps({"a": [1, -2, 300, 2**40, 2**70], 7: (1.5, None, True, b"x")}, protocol), of 2 without its bytes.
        let two = b"\x80\x02}q\x00(X\x01\0\0\0aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\0\0\0\0\0\x01\
                    \x8a\x09\0\0\0\0\0\0\0\0@eK\x07G?\xf8\0\0\0\0\0\0N\x88\x87q\x03u.";
        let four = b"\x80\x04\x95\x33\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xffM,\x01\x8a\x06\0\0\0\0\0\x01\
                     \x8a\x09\0\0\0\0\0\0\0\0@eK\x07(G?\xf8\0\0\0\0\0\0N\x88C\x01x\x94t\x94u.";
        for bytes in [two.as_slice(), four] {
            let pickle = read(bytes).expect("a dictionary");
            let Value::Dict(root) = pickle.root else { panic!("{:?}", pickle.root) };
            let [(Value::Text("a"), Value::List(list)), (Value::Int(Some(7)), Value::Tuple(tuple))] =
                pickle.dicts[root][..]
            else {
                panic!("{:?}", pickle.dicts)
            };
            let numbers = pickle.lists[list].iter().map(|value| match value {
                Value::Int(number) => *number,
                other => panic!("{other:?}"),
            });
            assert_eq!(numbers.collect::<Vec<_>>(), [Some(1), Some(-2), Some(300), Some(1 << 40), None]);
            assert!(matches!(pickle.tuples[tuple][..3], [Value::Float, Value::None, Value::Bool]));
        }
    }

    #[test]
    fn whatever_could_be_executed_is_refused_by_its_name() {
        // pickle.dumps of an object whose __reduce__ is (os.system, ("true",)), in protocols 2 and 4.
        let two = b"\x80\x02cposix\nsystem\nq\x00X\x04\0\0\0trueq\x01\x85q\x02Rq\x03.";
        assert_eq!(fault(two), "2: asks for `posix.system`, which is no part of a state dictionary");
        let four = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
        assert_eq!(fault(four), "19: asks for `posix.system`, which is no part of a state dictionary");
        let eval = fault(b"\x80\x02cbuiltins\neval\n.");
        assert_eq!(eval, "2: asks for `builtins.eval`, which is no part of a state dictionary");
        // Names that begin like ours.
        for name in
            ["torch\nload", "torch\n_FloatStorage", "torch._utils\n_rebuild_tensor", "collections\nOrderedDictX"]
        {
            let bytes = format!("c{name}\n.");
            let expected = format!("0: asks for `{}`, which is no part of a state dictionary", name.replace('\n', "."));
            assert_eq!(fault(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn each_fault_is_told_with_its_place() {
        let cases: [(&[u8], &str); 14] = [
            (b"", "0: ends in the middle"),
            (b"\x80\x02}", "3: ends in the middle"),
            (b"\x80\x02X\xff\xff\xff\xffab", "2: ends in the middle"),
            (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff", "0: ends in the middle"),
            (b"\x80\x06", "0: is written in protocol 6, only 2 to 5 are read"),
            (b"I1\n.", "0: has the opcode 0x49, which state dictionaries do not use"),
            (b"(.", "1: takes more from its stack than there is"),
            (b"K\x01(\x85.", "3: takes more from its stack than there is"),
            (b"u", "0: takes more from its stack than there is"),
            (b"h\x07.", "0: reads what it never put into its memo, at 7"),
            (b"\x8c\x01\xff.", "0: has a string that is not UTF-8"),
            (b"K\x01K\x02a.", "4: takes a number for a list"),
            (b"N)R.", "2: takes None for something to call"),
            (b"ctorch\nFloatStorage\n)R.", "21: calls a class with other arguments than a state dictionary"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(fault(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn numbers_of_any_length_are_read_if_they_are_of_64_bits() {
        let cases: [(&[u8], Option<i64>); 8] = [
            (b"", Some(0)),
            (b"\xff", Some(-1)),
            (b"\xff\0", Some(255)),
            (b"\0\0\0\0\0\0\0\x80", Some(i64::MIN)),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f\0", Some(i64::MAX)),
            (b"\0\0\0\0\0\0\0\x80\0", None),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f\xff", None),
            (b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(-2)),
        ];
        for (bytes, expected) in cases {
            let program = [b"\x8a".as_slice(), &[bytes.len() as u8], bytes, b"."].concat();
            let Value::Int(found) = read(&program).expect("a number").root else { panic!("{bytes:?}") };
            assert_eq!(found, expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_list_in_itself_is_built_once() {
        let pickle = read(b"]q\x00h\x00a.").expect("a list");
        assert!(matches!((pickle.root, &pickle.lists[0][..]), (Value::List(0), [Value::List(0)])));
    }
}
