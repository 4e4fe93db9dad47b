//! The most frequent Chinese characters: any real text of some length has many of them, bytes read in the wrong
//! encoding have almost none.

use std::collections::HashSet;
use std::sync::LazyLock;

/// The commonest characters of modern prose and of classical verse, simplified and traditional: two fifths of what Tang
/// poems are written in and more of modern text, but one in a hundred characters of English read as UTF-16.
const FREQUENT: &str = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运风云花春秋夜江雨青城酒古千飞落深草鸟愁归客這個們來為國說時會對於著過發後裡種經麼學現當沒動還進樣開從實軍無與長機關點業將兩間問應戰頭體見產話給門東聲員解論處義幾認條題爾變總電數報結務場計許統區隊決馬書則聽達強難權設記類據邊張該規萬覺術領確傳師觀讓識帶導爭運風雲飛鳥歸";

/// Whether `ch` is one of the most frequent hanzi.
pub(super) fn is_frequent(ch: char) -> bool {
    static SET: LazyLock<HashSet<char>> = LazyLock::new(|| FREQUENT.chars().collect());
    ch >= '\u{4e00}' && SET.contains(&ch)
}

/// Whether `ch` is in the main block of hanzi.
pub(super) fn is_hanzi(ch: char) -> bool {
    matches!(ch, '\u{4e00}'..='\u{9fff}')
}

/// Whether `ch` is Chinese and a unit of its own: a hanzi of any block, or a mark of full width.
pub(super) fn stands_alone(ch: char) -> bool {
    is_hanzi(ch)
        // Extension A, compatibility, extensions B to H.
        || matches!(ch, '\u{3400}'..='\u{4dbf}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
        // Marks, 〇 among them, and what ASCII has, in full width without letters and digits.
        || matches!(ch, '\u{3001}'..='\u{303f}' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}')
        || matches!(ch, '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff65}')
}
