"""Tables of the facts about languages and their wikis, for the extractor.

The tables have the names of namespaces, headings and templates, the marks,
months and forms of numbers. To support a new language, add rows to these tables
only. For a language without rows, the rules for all languages apply.

Names are in lower case, with spaces for underscores. ANY stands for all wikis.
"""

from typing import Dict, FrozenSet, Mapping, NamedTuple, Tuple

ANY = "*"
# The wikis that use the rows of "en".
ENGLISH = ("en", "simple")


def _names(text: str) -> FrozenSet[str]:
  r"""Returns the names of a list: "a, b\n c" -> {"a", "b c"}."""
  return frozenset(" ".join(name.split()) for name in text.split(","))


# --- Pages -------------------------------------------------------------------

# Names of the namespace of files on all Wikipedias, from MediaWiki. A dump has
# only the current name of its own wiki; pages also use older and English names.
# Latin and Cyrillic names of two letters are left out, because most titles that
# begin with such a name are not in the namespace.
FILE_NAMES = _names("""
    aafbeilding, afaylu, afbeelding, anaajaalaa, apamduööt, archivi, archivo,
    archivu, arkivo, arquivo, attarong, attēls, barakas, barkas, beeld, beld,
    belld, berkas, bestaand, bestand, beureukaih, bhengkek, bielde, bild, bilde,
    biliþ, billede, biru' na zayzyuwaw, biru’ na zayzyuwaw, bondol, borkas,
    chitro, coadan, dadai, dataja, datei, datnyvei, datoteca, datoteka, delwedd,
    dencukaay, dosiero, dosiye, dossia, dosya, dosye, duoro kɔre, ewava,
    eʼelyaaígíí, faal, faali, fael, faidhle, fail, faili, fails, failu, fajl,
    fasciculus, fayil, fayl, faylo, faýl, faịlụ, feil, fexeiro, ficheiro,
    ficheru, fichier, fichièr, fichiér, fichye, fiché, figura, figure, fiila,
    fiileq, fil, file, fisiye, fisye, fitxategi, fitxer, fix, fiùra, fişier,
    fișier, fotografija, fájl, fáìlì, fáílú, gambar, gbofa, gefre, gepokan,
    grafika, hình, ijo, imachen, image, imagem, imagen, imagine, imago, imahen,
    imaj, imajen, imajo, imatge, imaxe, imaxen, imej, immaggine, immagine,
    immàgini, imàjine, imådje, irudi, isimumathi, iyeltak, kiʻi, kuva, kép,
    ladawan, lahabali kɔligu, lifayela, litratu, liwuram, lêer, magod, mmàggini,
    mynd, natisinahikaniwoc, ngokweenkcukacha, obrázok, ofbeeldienge,
    ofbeelding, ofbyld, papeles, patas bntasan, payl, paypay, picha, pilt,
    plaetje, plik, ragiv, resim, restr, restren, rikcha, räsem, sary,
    seswantšho, setshwantsho, sineqetj a vecik, sitelen, skeda, skeudenn, slika,
    soubor, stampa, su'wret, swret, súbor, ta'ãnga, talaksan, tangan, tasvir,
    tiedosto, tiätuvuárkká, tugna, tập tin, ugasan, usòrò, vaizdas, waihona,
    wepo, wobraz, wékpo, wêne, ymele, àwòrán, ákwúkwó orünotu, émâge, íomhá,
    òbrôzk, ùng-giông, īxiptli, şəkil, αρχείο, αρχείον, εικόνα, εικόναν, акс,
    артовкс, афаил, билэ, боомг, ви́дъ, видъ, выява, датотека, дѣло, зображення,
    зураг, зург, изображение, картинка, ныв, няйф, ойуу, податотека, ресим,
    рәсем, слика, сурат, суред, сурет, сурт, файл, фотографија, хlум, ӳкерчĕк,
    պատկեր, בילד, טעקע, קו, קובץ, תמונה, أسگ, انځور, تصویر, جانیا, دوتنه, سۋرەت,
    صورة, عڪس, فائل, فاىل, فایل, فيشي, فَیِل, ملف, پرونده, پەڕگە, ھۆججەت, ܠܦܦܐ,
    ފައިލު, ފައިލް, ߞߐߕߐ߮, किपा, चित्र, चित्रं, चित्रम्, पटिमा, फाइल, फाईल,
    फायल, सञ्चिका, চিত্র, চিত্ৰ, ছবি, ਤਸਵੀਰ, ચિત્ર, ଫାଇଲ, படிமம், దస్త్రం, ఫైలు,
    బొమ్మ, ಚಿತ್ರ, ಫೈಲ್, ചി, ചിത്രം, പ്ര, പ്രമാണം, ගොනුව, රූපය, ภาพ, ไฟล์, ຮູບ,
    ဖိုင်, ဖုဲင်, ဝှာင်, ၾၢႆႇ, სურათი, ფაილი, ስዕል, ፋይል, រូបភាព, ឯកសារ, ᥜᥣᥭᥱ,
    ᱨᱮᱫ, ⴰⴼⴰⵢⵍⵓ, ファイル, 图像, 图片, 圖像, 圖片, 文件, 文檔, 档案, 檔案, 画像,
    ꠚꠣꠁꠟ, ꯐꯥꯏꯜ, 그림, 파일, 𐍆𐌴𐌹𐌻𐌰
    """)
# Names of the namespace of categories on all Wikipedias, likewise.
CATEGORY_NAMES = _names("""
    abdeeling, adà, akotchajülee sünülia, akpaxwé, bangsaan, bekätakthook,
    bhângsa, buuri buuri, bólkur, bɛn, cat, catadorie, catagóir, categoreye,
    categori, categoria, categorie, category, categorìa, categoría, categorîa,
    categuria, categurìa, catigurìa, catègorie, catégorie, class, dalala, ekpo,
    flocc, flokkur, gbuli, gbúgbe, grup, guru, horong, hŭng-lôi, ikiciro, jamii,
    kaarangay, kaban, kadegorie, kakuniza, kalasi, karolo, kasasiwasiw, kat,
    katagori, kateggoría, kategooria, kategoreja, kategori, kategoria,
    kategorie, kategorii, kategoriija, kategorija, kategorio, kategoriya,
    kategoriye, kategoriýa, kategory, kategorya, kategoryjo, kategoría,
    kategorî, kategourii, kategòrëjô, kategória, katejori, kateqoriya, katigori,
    katigoria, katiguriya, kattegerie, kattejori, katégori, katēggoría, kaurian,
    kawan, klad, klass, klesi, kulupu, loma, luokka, mkhakha, māhele, nakka,
    neneuhcāyōtl, nkyekyεmu, otú, pinapapilipiliqan, pubu, rang, roinn-seòrsa,
    ronney, rukuni, rummad, saachjrop, saachjropp, saachjrupp, sachgrubb,
    sachjrop, sanat, setensele, shopni, snakun, sokajy, sulli, sumut atassuseq,
    taggayt, thể loại, tipanictawin, tispir, tumbung, turkum, törkem,
    tʼááłáhági átʼéego, uluhlu, umkhakha, umuce, vibhag, wàll, zyuwaw na,
    ébéonọr, ñemohenda, òtù, κατηγορία, κατηγορίαν, акатегориа, ангилал,
    аңгылал, гурӯҳ, кадегар, кат, категори, категорие, категорий, категориэ,
    категория, категорија, категорія, катеґория, катеґорія, катигорїꙗ,
    катигорї, катэгорыя, оагӏат, санат, тоба, төркем, төркөм, янз, әәшл,
    կատեգորիա, ստորոգութիւն, קאַטעגאָריע, קאטעגאריע, קט, קטגוריה, بؤلمه, تصنيف,
    تۈر, جرگه, دأسە, رج, رده, زمرو, زمرہ, زٲژ, سانات, ونکی, وېشنيزه, پ, پۆل,
    گٹھ, ܣܕܪܐ, ޤިސްމު, ߦߌߟߡߊ, पुचः, वर्ग, वर्गः, विभाग, श्र, श्रेणी, থাক,
    বিষয়শ্রেণী, শ্রেণী, শ্ৰেণী, ਸ਼੍ਰੇਣੀ, શ્રે, શ્રેણી, ବିଭାଗ, ଶ୍ରେଣୀ, பகுப்பு,
    వర్గం, ವರ್ಗ, ವರ್ಗೊ, വ, വി, വിഭാഗം, വർഗ്ഗം, ප්‍රවර්ගය, หมวดหมู่, ໝວດ, ကဏ္ဍ,
    ပိူင်ထၢၼ်ႈ, კატეგორია, መደብ, ከረርም, ចំណាត់ក្រុម, ចំណាត់ថ្នាក់ក្រុម,
    ចំនាត់ថ្នាក់ក្រុម, ᥙᥫᥒ ᥗᥣᥢ, ᱛᱷᱚᱠ, ẹ̀ka, ọgbọn̄, ⴰⵙⵎⵉⵍ, カテゴリ, 分类, 分類,
    ꠇꠦꠐꠣꠉꠞꠤ, ꯃꯆꯥꯈꯥꯏꯕ, 분류, 𐌷𐌰𐌽𐍃𐌰
    """)
# Headings of sections without prose. Not "Literature": English articles on
# countries have prose there.
DROPPED_SECTIONS = _names("""
    references, external links, external link, see also, further reading, notes,
    bibliography, footnotes, citations, notes and references,
    references and notes, sources, notes and citations, references and sources,
    sources and references, footnotes and references, works cited,
    references and footnotes, select bibliography, selected bibliography,
    endnotes, external references, links, cited references, general references,
    references and further reading, further reading and external links,
    einzelnachweise, weblinks, siehe auch, literatur, anmerkungen, quellen,
    références, notes et références, liens externes, voir aussi, bibliographie,
    annexes, lien externe, articles connexes, referencias, enlaces externos,
    véase también, bibliografía, notas, notas y referencias, note,
    collegamenti esterni, voci correlate, bibliografia, altri progetti,
    referências, ligações externas, ver também, notas e referências,
    referències, enllaços externs, vegeu també, referenties, externe links,
    zie ook, bronnen, literatuur, externe link, bronnen noten en/of referenties,
    noten, källor, externa länkar, se även, referenser, vidare läsning,
    referanser, eksterne lenker, se også, kilder, litteratur, referencer,
    eksterne henvisninger, eksterne links, lähteet, aiheesta muualla,
    katso myös, kirjallisuutta, viitteet, heimildir, tenglar, tengt efni,
    przypisy, linki zewnętrzne, zobacz też, uwagi, reference, externí odkazy,
    související články, poznámky, referencie, externé odkazy, pozri aj,
    iné projekty, források, jegyzetek, külső hivatkozások, lásd még,
    kapcsolódó szócikkek, további információk, irodalom, referințe,
    legături externe, vezi și, bibliografie, note de subsol,
    reference i bilješke, vanjske poveznice, izvori, vidi još, viri,
    zunanje povezave, glej tudi, sklici, примечания, ссылки, см. также,
    литература, источники, примітки, посилання, див. також, література, джерела,
    бележки, източници, външни препратки, вижте също, заўвагі, спасылкі,
    крыніцы, гл. таксама, літаратура, референце, спољашње везе, види још,
    извори, напомене, ծանոթագրություններ, արտաքին հղումներ, տես նաև,
    գրականություն, աղբյուրներ, հղումներ, სქოლიო, რესურსები ინტერნეტში,
    იხილეთ აგრეთვე, ლიტერატურა, παραπομπές, εξωτερικοί σύνδεσμοι, δείτε επίσης,
    βιβλιογραφία, πηγές, kaynakça, dış bağlantılar, ayrıca bakınız, notlar,
    kaynaklar, istinadlar, xarici keçidlər, həmçinin bax, viited, välislingid,
    vaata ka, kirjandus, atsauces, ārējās saites, skatīt arī, šaltiniai,
    nuorodos, taip pat skaitykite, erreferentziak, kanpo estekak, ikus, gainera,
    referencoj, eksteraj ligiloj, vidu ankaŭ, הערות שוליים, קישורים חיצוניים,
    ראו גם, לקריאה נוספת, مراجع, وصلات خارجية, انظر أيضا, انظر أيضًا, المراجع,
    مصادر, هوامش, منابع, پیوند به بیرون, جستارهای وابسته, پانویس, یادداشت‌ها,
    حوالہ جات, بیرونی روابط, مزید دیکھیے, सन्दर्भ, संदर्भ, बाहरी कड़ियाँ,
    इन्हें भी देखें, तथ्यसूत्र, বহিঃসংযোগ, আরও দেখুন, মேற்கோள்கள்,
    வெளி இணைப்புகள், இவற்றையும் பார்க்கவும், อ้างอิง, แหล่งข้อมูลอื่น, ดูเพิ่ม,
    เชิงอรรถ, ອ້າງອີງ, ເບິ່ງຕື່ມ, tham khảo, liên kết ngoài, xem thêm,
    chú thích, đọc thêm, thư mục, nguồn, ghi chú, referensi, pranala luar,
    lihat pula, catatan kaki, daftar pustaka, rujukan, pautan luar, lihat juga,
    脚注, 外部リンク, 関連項目, 参考文献, 出典, 注釈, 注釈・出典, 参考资料,
    參考資料, 參考文獻, 外部链接, 外部連結, 参见, 參見, 注释, 註釋, 腳註,
    相关条目, 相關條目, 延伸阅读, 延伸閱讀, 각주, 외부 링크, 같이 보기,
    참고 문헌, 출처
    """)
# Full names of the templates of disambiguation pages.
DISAMBIGUATION_TEMPLATES = _names("""
    disamb, dab, human name disambiguation, geodis, place name disambiguation,
    numberdis, begriffsklärung, homonymie, desambiguación, desambiguação,
    desambiguació, disambigua, неоднозначность, неоднозначність, пояснение,
    многозначност, вишезначна одредница, неадназначнасць, айрық, dp,
    doorverwijspagina, ujednoznacznienie, förgrening, grensida, gren, peker,
    flertydig, täsmennyssivu, rozcestník, rozlišovacia stránka, egyért,
    egyértelműsítő lap, dezambiguizare, anlam ayrımı, dəqiqləşdirmə,
    αποσαφήνιση, פירושונים, توضيح, صفحة توضيح, ابهام‌زدایی, بہت سے معنی,
    बहुविकल्पी शब्द, দ্ব্যর্থতা নিরসন, แก้กำกวม, trang định hướng, định hướng,
    aimai, 曖昧さ回避, 人名の曖昧さ回避, 地名の曖昧さ回避, 消歧义, 消歧義,
    消歧义页, 消歧義頁, 동음이의, 동명이인, բազմիմաստություն, argipen,
    nuorodinis, nozīmju atdalīšana, täpsustuslehekülg, razdvojba, razločitev,
    მრავალმნიშვნელოვანი, apartigilo
    """)
# Words in parentheses at the end of the titles of disambiguation pages.
DISAMBIGUATION_TITLES = _names("""
    disambiguation, begriffsklärung, homonymie, desambiguación, desambiguação,
    desambiguació, disambigua, значения, значення, пояснение,
    вишезначна одредница, doorverwijspagina, ujednoznacznienie,
    olika betydelser, flertydig, täsmennyssivu, rozcestník, egyértelműsítő lap,
    dezambiguizare, anlam ayrımı, αποσαφήνιση, פירושונים, توضيح, ابهام‌زدایی,
    بहुविकल्पी, แก้ความกำกวม, định hướng, 曖昧さ回避, 消歧义, 消歧義, 동음이의,
    այլ կիրառումներ
    """)
# Wikis in several scripts or vocabularies, which mark the differences:
# -{zh-hans:计算机; zh-hant:電腦}-.
WITH_VARIANTS = frozenset(
    "ban crh gan iu ku kk mni sh shi sr tg tly uz wuu zh zh-yue".split())
# Variants to keep. Without these, the first variant is kept.
KEPT_VARIANTS = ("zh-hans", "zh-cn", "zh", "sr-ec", "kk-cyrl", "tg", "uz-latn")

# --- Text --------------------------------------------------------------------

# Patterns of a language's terminal marks that Unicode does not name.
OWN_TERMINAL_MARKS: Mapping[str, str] = {
    # The Greek question mark, which is also typed as a semicolon.
    "el": "[;\u037e]", "pnt": "[;\u037e]",
    # Typed instead of the Armenian full stop, which few keyboards have.
    "hy": ":", "hyw": ":",
    # Two word separators, typed instead of the Ethiopic full stop.
    "am": "፡፡|::", "ti": "፡፡|::",
}
# Languages with a point after ordinal numbers: "im 19. Jahrhundert".
ORDINALS_WITH_POINT = frozenset(
    "als az bar bs cs da de et eu fi fo frr hr hsb dsb hu is ksh lb lv nb nds "
    "nn no sh sk sl sr tr".split())
# Ranges of the scripts without terminal marks: Thai, Lao, Tai Le, New Tai Lue,
# Tai Viet.
SCRIPTS_WITHOUT_MARKS = ("\u0e01-\u0e5b\u0e81-\u0edf\u1950-\u197f\u1980-\u19df"
                         "\uaa80-\uaadf")


class Numbers(NamedTuple):
  """A wiki's format of numbers.

  Attributes:
    group: separator between groups of digits.
    decimal: separator before the decimals.
    grouped_from: minimal number of digits of a number with groups.
    lakhs: whether groups have two digits, except for the last group.
    digits: the ten digits.
  """
  group: str = ""
  decimal: str = "."
  grouped_from: int = 4
  lakhs: bool = False
  digits: str = "0123456789"


_SPACE = "\u00a0"
# Numbers of wikis without a row stay as the page has them.
NUMBERS: Dict[str, Numbers] = {
    **dict.fromkeys(
        "en simple zh zh-yue ja ko th he ms sco cy ga mt sw".split(),
        Numbers(",")),
    **dict.fromkeys(
        "de nl da id tr it ro el vi hr sr sh sl bs mk az gl ca eu is fo jv su "
        "fy lb".split(), Numbers(".", ",")),
    **dict.fromkeys(
        "fr ru uk cs sk hu sv fi no nb nn et lt lv be kk ky hy ka eo br oc tt "
        "ba sq uz".split(), Numbers(_SPACE, ",")),
    **dict.fromkeys("es pt pl bg ast an".split(), Numbers(_SPACE, ",", 5)),
    **dict.fromkeys("hi ta te kn gu pa ml".split(), Numbers(",", lakhs=True)),
    **dict.fromkeys("mr ne new".split(),
                    Numbers(",", lakhs=True, digits="०१२३४५६७८९")),
    **dict.fromkeys(["bn", "as"],
                    Numbers(",", lakhs=True, digits="০১২৩৪৫৬৭৮৯")),
    **dict.fromkeys(["fa", "mzn"], Numbers("٬", "٫", digits="۰۱۲۳۴۵۶۷۸۹")),
}


class Dates(NamedTuple):
  """A wiki's format of dates.

  Attributes:
    months: names of the twelve months, inflected as in a date.
    full: format of a date, with {day}, {month} and {year}.
    without_year: format of a date without the year.
    first: text of the first day of a month.
  """
  months: Tuple[str, ...]
  full: str = "{day} {month} {year}"
  without_year: str = "{day} {month}"
  first: str = "1"


def _dates(months: str, *forms: str) -> Dates:
  return Dates(tuple(months.split()), *forms)


DATES: Dict[str, Dates] = {
    "en": _dates("January February March April May June July August September "
                 "October November December"),
    "de": _dates("Januar Februar März April Mai Juni Juli August September "
                 "Oktober November Dezember",
                 "{day}. {month} {year}", "{day}. {month}"),
    "fr": _dates("janvier février mars avril mai juin juillet août septembre "
                 "octobre novembre décembre", "{day} {month} {year}",
                 "{day} {month}", "1er"),
    "es": _dates("enero febrero marzo abril mayo junio julio agosto "
                 "septiembre octubre noviembre diciembre",
                 "{day} de {month} de {year}", "{day} de {month}"),
    "pt": _dates("janeiro fevereiro março abril maio junho julho agosto "
                 "setembro outubro novembro dezembro",
                 "{day} de {month} de {year}", "{day} de {month}"),
    "it": _dates("gennaio febbraio marzo aprile maggio giugno luglio "
                 "agosto settembre ottobre novembre dicembre"),
    "nl": _dates("januari februari maart april mei juni juli augustus "
                 "september oktober november december"),
    "pl": _dates("stycznia lutego marca kwietnia maja czerwca lipca sierpnia "
                 "września października listopada grudnia"),
    "ru": _dates("января февраля марта апреля мая июня июля августа "
                 "сентября октября ноября декабря"),
    "uk": _dates("січня лютого березня квітня травня червня липня серпня "
                 "вересня жовтня листопада грудня"),
    "tr": _dates("Ocak Şubat Mart Nisan Mayıs Haziran Temmuz Ağustos Eylül "
                 "Ekim Kasım Aralık"),
}

# --- Templates ---------------------------------------------------------------

# Templates of notes, sources, marks of quality and pronunciation. A sentence is
# complete without these templates.
NOTES = _names("""
    nowrap begin, nowrap end,
    sfn, sfnp, sfnm, sfn0, harv, harvnb, harvtxt, harvcol, harvcolnb, harvs,
    harvp, harvsp, harvnp, efn, efn-ua, efn-lr, efn-la, efn2, refn, refnest,
    ref, reference, r, rp, rf, note, notetag, note label, ref label, ref+,
    ref-en, ref-ru, ref-uk, ref-de, ref-fr, citation, cite, cite web, cite book,
    cite journal, cite news, cite encyclopedia, cit, cn, fact, facts, cb,
    citation needed, citation needed lead, full citation needed, page needed,
    pn, better source needed, better source, verify source, unreliable source?,
    unreliable source, primary source inline, primary source,
    additional citation needed, failed verification, not in source,
    verification needed, source needed, reference necessary, dead link, clarify,
    clarification needed, clarify inline, confusing inline, contradict-inline,
    contradictory inline, dubious, disputed inline, dubious inline, vague, who,
    whom, by whom, by whom?, who?, when, when?, where, where?, which, which?,
    what, why, why?, how, how?, how many, how often, according to whom,
    like whom?, examples, example needed, specify, elucidate, explain,
    definition needed, define, relevance inline, undue weight inline,
    pov statement, pov-statement, weasel inline, weasel-inline, peacock inline,
    peacock term, buzz, jargon inline, update inline, update after,
    update-inline, out of date inline, needs update, time fact,
    speculation inline, speculate, or, original research inline,
    synthesis inline, importance inline, opinion, attribution needed,
    non sequitur, lopsided inline, copyedit inline, discuss, year needed,
    date missing, month needed, quantify, quote needed, request quotation,
    citation style, link note, self-published inline, self-published source,
    medcn, medical citation needed, chronology citation needed, sps, cref,
    cref2, anchor, anchors, shy, zwsp, zwj, zwnj, wbr, clear, -, coord, coords,
    coord missing, flagicon, flag icon, flagdeco, flagicon image, ipa, ipac-en,
    ipa-en, ipac-fr, ipa all, #tag, webarchive, respell, respelling, pron,
    pronunciation, pronunciation needed, usdict, listen, audio, audio-ipa,
    loudspeaker, media, wikt-ipa, about, main, see also, further, further text,
    details, disambiguation needed, dn, dab needed, shortcut, inline tag, esl,
    in lang, expand language, dagger, double-dagger, double dagger, asterisk,
    wikisource, wikisource-inline, wikicite, cite quran, hidden, void, belege,
    belege fehlen, quelle, quelle?, anker, lautschrift, internetquelle,
    literatur, 0, fußnote, fn, fnz, fnbox, icon, api, phon, phonétique,
    prononciation, référence souhaitée, refsou, quand, pas clair,
    précision nécessaire, lesquelles, lesquels, lequel, laquelle, qui, où, quoi,
    pourquoi, combien, comment, source insuffisante, source à préciser, ancre,
    drapeau, drapeau2, drapeau-, écouter, non neutre, attribution, par qui,
    selon qui, c'est-à-dire, cita requerida, cr, sin referencias, demostrar,
    aclarar, ¿cuándo?, ¿quién?, ¿dónde?, ¿cuál?, aclaración requerida, afi,
    bandera, bandera2, ancla, verificar credibilidad, dudoso, cita libro,
    cita web, senza fonte, citazione necessaria, chiarire, quando, chi, nd,
    bandiera, carece de fontes, carece fontes, carece de fontes2, citar livro,
    quem, quem?, quando?, onde, citação necessária, esclarecer, nota de rodapé,
    âncora, dlink, odn, odnq, u, fakt, kiedy, kto, gdzie, jaki, flaga, bron?,
    feit, bron gewenst, källa behövs, faktakrav, när, vem, källa, ej i källa,
    flagga, trenger referanse, referanseløs, kilde mangler, når, hvem, lähde,
    milloin, kuka, koska, doplňte zdroj, zdroj?, kdo?, kdy?, forrás, mikor, ki,
    necesită citare, nevoie de citare, kaynak belirt, olgu, kim, ne zaman,
    nerede, bayrak, bayraksimge, нет аи, нет аи 2, источник, источник?,
    нет источника, уточнить, что, что?, кто, кто?, когда, когда?, где, где?,
    какой?, какие, чей?, какой, чего?, нет в источнике, неавторитетный источник,
    значимость факта, переход, примечание, мфа, мфа2, мфа-ru, флаг,
    флагифицировано, якорь, грубая цитата, достоверность, сомнительно,
    прояснить, не актуально, обновить, ref-ua, джерело, джерело?, немає джерела,
    нема джерела, без джерел, уточнити, хто, хто?, коли, коли?, де?, який?,
    які?, прапор, прапорець, ця стаття, примітка, чкс, коректно?, факт,
    източник, източник?, кога, кой, крыніца, извор, փաստ, ծնթ, նշում, աղբյուր,
    դրոշ, θέση πηγής, πηγή, πότε, ποιος, εκκρεμεί παραπομπή, הערה, מקור,
    דרוש מקור, בחר, הבהרה, ש, כן, بحاجة لمصدر, مصدر, متى, من, وضح, علم, مدرک,
    نیازمند منبع, یاد, پم, پک, چه‌کسی, کی, پرچم, حوالہ درکار, উৎস,
    উদ্ধৃতি প্রয়োজন, तथ्य, स्रोत, ต้องการอ้างอิง, ใคร, เมื่อไร, ธง,
    cần chú thích, cần dẫn nguồn, ai nói, khi nào, nguồn?, cờ, cần nguồn,
    butuh rujukan, fakta, siapa, kapan, perlu rujukan, 要出典, 誰, 誰によって,
    いつ, どこ, 要検証, 要ページ番号, 信頼性要検証, 独自研究, 要説明, フラグ,
    音声, 来源请求, 來源請求, 何时, 何時, 谁, 页码请求, 頁碼請求, 可疑,
    需要解释, 需要解釋, 国旗, 國旗, 哪个, 失效链接, 来源?, 출처 필요, 출처,
    사실, 누가, 언제, 어디, 국기그림, 쪽
    """)
# First letters of the names of further such templates.
NOTE_PREFIXES = ("cite ", "ipac-", "ipa-", "harv", "sfn", "efn", "flagicon",
                 "refn", "мфа-", "ref-", "citar ", "cita ", "smiley")
# First letters of templates with a language code in their name: lang-de.
LANGUAGE_PREFIX = "lang-"

# Templates that stand for words. A row has the renderer in `templates.py`, the
# renderer's words and the names of the templates. The templates under ANY have
# the same meaning on all wikis and add no words of a language.
TEMPLATES: Dict[str, Tuple[Tuple[str, Tuple[str, ...], str], ...]] = {
    ANY: (
        ("first", (),
         "nowrap, nobr, nobreak, nobold, noitalic, small, smaller, big, "
         "larger, large, center, em, strong, smallcaps, sub, unicode, math, "
         "mvar, abbr, tooltip, abbrlink, abbrv, iast, arabdin, polytonic, "
         "hebrew, nastaliq, script/arabic, script/hebrew, script/nastaliq, "
         "keypress, key press, tt, mono, kbd, samp, underline, strikethrough, "
         "longitem, font, serif, sans-serif, nihongo2, ruby, flag, "
         "flagcountry, flagu, visible anchor, vanchor, nobrs, nwr, w, wl, "
         "not a typo"),
        ("second", (),
         "lang, langx, wikt-lang, rtl-lang, native name, font color, color, "
         "colour, script, fontcolor"),
        ("last", (), "transl, transliteration, translit, tlit, resize"),
        ("joined", (), "chem, chem2, gaps, linktext"),
        ("convert", ("abbreviated",), "convert, conv, cvt"),
        ("value", (), "val"),
        ("nihongo", (), "nihongo, nihongo krt"),
        ("nihongo", ("romanized",), "nihongo3"),
        ("fraction", (), "frac, sfrac, fraction, tfrac, fract"),
        ("interlanguage_link", (),
         "ill, ill2, illm, interlanguage link, interlanguage link multi, "
         "link-interwiki, iw, iw2, lien, li"),
        ("quotation", (),
         "quote, quotation, blockquote, block quote, cquote, bquote, rquote, "
         "verse translation, poemquote, poem quote, pull quote, quote frame"),
        ("ship", (), "ship"),
        ("format_number", (), "formatnum, nts, ntsh, formatnumber"),
        ("case", ("upper",), "uc, upper, uppercase"),
        ("case", ("lower",), "lc, lower, lowercase"),
        ("case", ("first",), "ucfirst"),
        ("around", ("⟨", "⟩"), "angbr, angbr ipa, angle bracket, grapheme"),
        ("around", ("√", ""), "radic, sqrt"),
        ("music", (), "music"),
        ("formula", (), "tmath"),
        ("nuclide", (), "nuclide, simplenuclide, simplenuclide2"),
        ("superscript", (), "sup"),
        ("height", (), "height"),
        ("rail_gauge", (), "railgauge, rail gauge, track gauge"),
        ("constant", (" – ",),
         "snd, snds, spnd, spaced ndash, spaced en dash, dash"),
        ("constant", ("–",), "ndash, en dash, endash, nbnd"),
        ("constant", ("—",), "mdash, em dash, emdash, mdashb"),
        ("constant", (" ",),
         "nbsp, spaces, space, thin space, thinsp, hair space, hairsp, pad, "
         "br, break, nnbsp, narrow no-break space"),
        ("constant", ("'",), "', apostrophe"),
        ("constant", ("=",), "="),
        ("constant", ("·",), "·, dot, middot"),
        ("constant", ("•",), "•, bullet"),
        ("constant", ("ʻ",), "okina"),
        ("constant", ("π",), "pi"),
        ("constant", ("−",), "minus"),
        ("constant", ("×",), "times"),
        ("constant", ("°",), "degree, deg"),
        # Words that are not in the dump.
        ("unknown", (),
         "currentyear, currentmonthname, currentmonth, currentday, "
         "currentdayname, localyear, localmonthname, localday, pagename, "
         "numberofarticles, #expr, #time, #timel, #invoke, #property, "
         "#statements, #if, #ifeq, #ifexpr, #switch, #formatdate, "
         "#dateformat, plural, grammar, wikidata, su, physics particle, "
         "subatomic particle, dentalformula, overline, age, "
         "age in years and days, age in years, age in days, ageny, inflation"),
        *(("ship", (prefix,), prefix.lower()) for prefix in (
            "USS", "HMS", "HMAS", "HMCS", "HMNZS", "SS", "RMS", "MV", "MS",
            "SMS", "USCGC", "USNS", "INS", "HNoMS", "ORP", "USAT", "HMHS",
            "GTS", "TSS", "HMVS", "HSwMS", "HDMS", "JDS", "ARA", "ARM", "BNS",
            "HMNLS", "HTMS", "KRI", "PNS", "ROKS", "TCG", "USRC", "USAHS")),
    ),
    "en": (
        ("first", (),
         "sc, var, as written, typo, proper name, clarify span, key, code, "
         "xt, citation needed span, nq, highlight, annotated link, marriage, "
         "sronly, mongolian, my, tibetan, stnlink, station link, stn, rws, "
         "metro, lrt station, fb, by, mlby, nfly, nhly, cfby, nbay, mlsy, "
         "uscy, baseball year, isbnt, pslink, pll, plainlink, notatypo, "
         "botanist, bdi, cslist, cspan, noitalics"),
        ("last", (), "w"),
        ("joined", (), "sic"),
        ("convert", (), "convert, conv"),
        ("language", (), "langx"),
        ("chinese", (), "zh, lang-zh, zh-hant, zh-cn"),
        ("as_of", (), "as of, asof"),
        ("date", (),
         "birth date, birth date and age, death date, death date and age, "
         "start date, start date and age, end date, date, film date, dts, "
         "start and end dates, release date"),
        ("old_style_date", (), "oldstyledate, old style date"),
        ("prefixed", ("c. ", " – c. "), "circa, c., ca., approx."),
        ("prefixed", ("fl. ", "–"), "floruit, fl."),
        ("prefixed", ("r. ", "–"), "reign, r., reigned"),
        ("prefixed", ("b. ", ""), "b., born"),
        ("prefixed", ("d. ", ""), "d., died"),
        ("prefixed", ("No. ", ""), "numero, no."),
        ("interlanguage_link", (), "red link, link if exists"),
        ("ship_class", (), "sclass, sclass-, sclass2, sclass2-"),
        ("format_number", (), "number, format number"),
        ("around", ("(see ", ")"), "see below, see above"),
        ("around", ("[", "]"),
         "bracket, brackets, ipa link, ipalink, ipablink"),
        ("around", ("/", "/"), "ipaslink"),
        ("constant", ("⇌",), "eqm"),
        ("around", ("US$", ""), "us$, usd, us dollar"),
        ("around", ("A$", ""), "a$, aud, au$"),
        ("around", ("C$", ""), "c$, cad, ca$"),
        ("around", ("NZ$", ""), "nzd, nz$"),
        ("around", ("£", ""), "£, gbp, pound sterling"),
        ("around", ("€", ""), "€, euro, eur"),
        ("around", ("¥", ""), "¥, jpy, cny, rmb, yen"),
        ("around", ("₹", ""), "inr, indian rupee, ₹, indianrupee"),
        ("around", ("₩", ""), "krw, ₩"),
        ("around", ("₽", ""), "rub, ₽"),
        ("around", ("₱", ""), "php, ₱, philippine peso"),
        ("around", ("₦", ""), "ngn, ₦, naira"),
        ("around", ("R$", ""), "brl, r$"),
        ("around", ("kr ", ""), "nok, sek, dkk"),
        ("currency", (), "currency"),
        ("around", ("\"", "\""), "\", quote text, qq, double quotes"),
        ("around", ("'", "'"), "gloss, single quotes, single quote"),
        ("around", ("lit. '", "'"),
         "lit, literal translation, literally, literal"),
        ("section_link", (), "section link, slink"),
        ("bible_verse", (),
         "bibleverse, bibleverse-nb, bibleref, bibleref2, bibleref2-nb, "
         "bible verse, biblesource"),
        ("around", ("U.S. Patent ", ""), "us patent"),
        ("ordinal", (), "ordinal, ord, ordinal to word"),
        ("around", ("×10^", ""), "e, esp"),
        ("constant", ("H",), "hydrogen"),
        ("constant", ("'s",), "'s"),
        ("constant", ("'\"",), "'\""),
        ("constant", ("' \"",), "' \""),
        ("constant", ("\"'",), "\"'"),
        ("constant", ("\" '",), "\" '"),
        ("constant", ("-\"",), "-\""),
        ("constant", ("BC",), "bc"),
        ("constant", ("AD",), "ad"),
        ("constant", ("BCE",), "bce"),
        ("constant", ("CE",), "ce"),
        # Words that are not in the dump.
        ("unknown", (),
         "format price, formatprice, carbon, un population, population, "
         "pop density, to usd, to usd round, inrconvert, us$convert, jct"),
    ),
    "de": (
        ("first", (),
         "hochgestellt, tiefgestellt, zahl, versal, kapitälchen, nowrap, "
         "unicode, musik"),
        ("around", ("„", "“"), "\""),
        ("quotation", (), "zitat"),
        ("fraction", (), "bruch"),
        ("joined", (), "chemische formel"),
        ("prefixed", ("§ ", ""), "§"),
        ("number_with_unit", ("m",), "höhe"),
        ("date", (), "datum, datum kurz"),
    ),
    "fr": (
        ("constant", ("e",), "e, ème, ième, eme"),
        ("constant", ("er",), "er"),
        ("constant", ("re",), "re, ère"),
        ("constant", ("nd",), "nd"),
        ("constant", ("nde",), "nde"),
        ("constant", ("es",), "es"),
        ("constant", ("Ier",), "ier"),
        ("constant", ("1er",), "1er"),
        ("constant", ("1re",), "1re, 1ère"),
        ("century", ("{} siècle", "{} et {} siècles"), "s, s-, s2, s2-"),
        ("century", ("{} siècle av. J.-C.", "{} et {} siècles av. J.-C."),
         "-s, -s-"),
        ("century", ("{} siècle", "{} – {} siècles"), "sp, sp-"),
        ("constant", ("av. J.-C.",),
         "av jc, av. j.-c., avjc, av, avant jésus-christ"),
        ("constant", ("apr. J.-C.",), "ap jc, ap. j.-c., apr. j.-c., apjc"),
        ("constant", ("–",), "tiret"),
        ("number_with_unit", (), "unité, unite, nombre, nb"),
        ("date", (),
         "date, date-, date de naissance, date de naissance-, date de décès, "
         "date de décès-, date rapide, date républicaine, date sport, jma"),
        ("join", (" h ",), "heure"),
        ("first", (),
         "an, année, petit, grand, exp, exposant, ind, indice, terme, "
         "terme défini, incise, pc, petites capitales, rom, romain, rom-maj, "
         "refnec, référence nécessaire, passage évasif, passage non neutre, "
         "citation nécessaire, souverain, souverain2, souverain-, souverain3, "
         "nom, abréviation, abr, abréviation discrète, abd, sigle, clarifier, "
         "précision, graphie, graph, wikt"),
        ("second", (), "langue, citation étrangère, wp"),
        ("around", ("« ", " »"), "citation, guil, cita, guillemets, «"),
        ("joined", (), "fchim, formule chimique, formule brute"),
        ("nihongo", (), "japonais"),
        ("prefixed", ("no ", ""), "n°, no, numéro, nº, n"),
        ("prefixed", ("p. ", ""), "p., p"),
        ("prefixed", ("M. ", ""), "m., monsieur"),
        ("prefixed", ("Mme ", ""), "mme"),
        ("prefixed", ("Mlle ", ""), "mlle"),
        ("prefixed", ("Dr ", ""), "dr"),
        ("prefixed", ("Mgr ", ""), "mgr"),
        ("around", ("", " €"), "euro, euros"),
        ("interlanguage_link", (), "lien"),
        ("quotation", (), "citation bloc"),
    ),
    "es": (
        ("first", (), "esd, versalita, versalitas, nombre, destacado"),
        ("quotation", (), "cita, cita textual"),
        ("number_with_unit", (), "unidad, unidad2, convertir"),
        ("spanish_century", (), "siglo"),
        ("date", (), "fecha, fecha de inicio"),
        ("constant", ("a. C.",), "ac, a. c."),
        ("constant", ("d. C.",), "dc, d. c."),
        ("second", (), "lengua, idioma"),
    ),
    "ca": (
        ("century", ("segle {}",), "segle"),
        ("number_with_unit", (), "unitats, conversió"),
        ("first", (), "romanes, versaleta"),
    ),
    "it": (
        ("number_with_unit", (), "m, unità"),
        ("first", (), "cn, maiuscoletto, parola chiave"),
        ("around", ("«", "»"), "citazione breve"),
    ),
    "pt": (
        ("number_with_unit", (), "fmtn, unidade, converter"),
        ("format_number", (), "fn"),
        ("century", ("século {}",), "séc, séc., século"),
        ("date", (), "dtlink, data"),
        ("constant", ("a.C.",), "ac"),
        ("constant", ("d.C.",), "dc"),
        ("first", (), "pbpe, pbpe2, ling, versalete"),
        ("join", (" ",), "lknb, lkfb"),
    ),
    "nl": (
        ("first", (), "getal, kleinkapitaal"),
        ("number_with_unit", (), "eenheid"),
    ),
    "pl": (
        ("first", (),
         "j, ang., niem., fr., łac., ros., gr., wł., hiszp., jap., czes., "
         "ukr., węg., hebr., chiń., arab., pers., tur., port., szw., nid., "
         "białorus., lit., kapitaliki"),
        ("second", (), "język"),
        ("quotation", (), "cytat, cytatd"),
    ),
    "ru": (
        ("first", (),
         "s, comment, подсказка, comment2, рус, флагификация, ударение, нп, "
         "нп1, нп2, нп3, нп4, сс, не переведено, не переведено 2, "
         "не переведено 3"),
        ("second_or_first", (), "нп5, не переведено 5, iw, np, нп6"),
        ("number_with_unit", (), "num, число"),
        ("quotation", (), "цитата"),
        ("fraction", (), "дробь"),
        ("constant", ("до н. э.",), "до н. э., до н.э., bc"),
        ("constant", ("н. э.",), "н. э., н.э."),
        ("date", (), "дата"),
    ),
    "uk": (
        ("first", (), "s, прапорифікація, флагіфікація, comment, наголос, сс"),
        ("second_or_first", (),
         "нп, нп1, нп2, нп3, нп4, нп5, не перекладено, iw, iw2, np"),
        ("number_with_unit", (), "число, num"),
        ("quotation", (), "цитата"),
        ("constant", ("до н. е.",), "до н. е., до н.е."),
        ("constant", ("н. е.",), "н. е., н.е."),
        ("date", (), "дата"),
    ),
    "bg": (
        ("first", (), "s, икона"),
        ("quotation", (), "цитат"),
        ("second_or_first", (), "нп, ip"),
    ),
    "tr": (
        ("second", (), "dil"),
        ("first", (), "bayrakülke, ülkebayrağı"),
        ("date", (), "tarih"),
    ),
    "vi": (
        ("interlanguage_link", (), "liên kết ngôn ngữ khác"),
        ("first", (), "cờ quốc gia"),
    ),
    "ja": (
        ("first", (),
         "仮リンク, ルビ, 要出典範囲, 補助漢字フォント, jis2004フォント, "
         "jis90フォント, cp932フォント, 旧字体, 要検証範囲, 縦書き, "
         "独自研究範囲, 表記揺れ"),
        ("around_second", ("（", "）"), "読み仮名, 読み仮名 ruby不使用"),
    ),
    "zh": (
        ("first", (),
         "僻字, 僻字2, 黑体, 黑體, zy, 字, 字體, cjk, zh-hans, zh-hant"),
        ("third_or_first", (),
         "link, le, link-en, link-ja, link-fr, link-de, link-ko, link-ru, "
         "link-es, link-it, link-vi"),
        ("last", (), "tsl, translink, tle"),
    ),
    "ko": (
        ("first", (), "임시링크, 국기나라, 국기2, 글자"),
        ("second", (), "llang"),
    ),
}
# Patterns of templates named by a century: "xixe siècle" in French.
CENTURY_TEMPLATES: Mapping[str, str] = {
    "fr": r"([ivxlc]+)(er|e) siècle( av\. j\.-c\.)?",
}
# Patterns of templates that show text in another language.
FOREIGN_TEXT_TEMPLATES: Mapping[str, str] = {
    # {{enS|Word}}, {{grcS|λόγος}}
    "de": r"[a-z]{2,3}s",
}

# The units of {{convert}} in English: codes, symbol, singular, plural, in
# British spelling; `sp=us` selects American spelling.
_UNIT_TABLE = """
m|m|metre|metres
km|km|kilometre|kilometres
cm|cm|centimetre|centimetres
mm|mm|millimetre|millimetres
um μm µm|μm|micrometre|micrometres
nm|nm|nanometre|nanometres
ft foot feet|ft|foot|feet
in inch|in|inch|inches
yd yard|yd|yard|yards
mi mile miles|mi|mile|miles
nmi|nmi|nautical mile|nautical miles
fathom|fathom|fathom|fathoms
furlong|furlong|furlong|furlongs
chain|chain|chain|chains
league|league|league|leagues
hand|h|hand|hands
ly|ly|light-year|light-years
pc|pc|parsec|parsecs
AU|AU|astronomical unit|astronomical units
km2 km² sqkm|km2|square kilometre|square kilometres
m2 m² sqm|m2|square metre|square metres
cm2 sqcm|cm2|square centimetre|square centimetres
mm2 sqmm|mm2|square millimetre|square millimetres
mi2 sqmi|sq mi|square mile|square miles
ft2 sqft|sq ft|square foot|square feet
in2 sqin|sq in|square inch|square inches
yd2 sqyd|sq yd|square yard|square yards
acre acres|acre|acre|acres
ha|ha|hectare|hectares
km3|km3|cubic kilometre|cubic kilometres
m3|m3|cubic metre|cubic metres
cm3 cc|cm3|cubic centimetre|cubic centimetres
mi3 cumi|cu mi|cubic mile|cubic miles
ft3 cuft|cu ft|cubic foot|cubic feet
in3 cuin|cu in|cubic inch|cubic inches
yd3 cuyd|cu yd|cubic yard|cubic yards
acre.ft|acre.ft|acre-foot|acre-feet
L l litre liter|L|litre|litres
ml mL|ml|millilitre|millilitres
hl hL|hl|hectolitre|hectolitres
USgal|US gal|US gallon|US gallons
impgal|imp gal|imperial gallon|imperial gallons
gal|gal|gallon|gallons
USqt|US qt|US quart|US quarts
pint|pint|pint|pints
floz USfloz|US fl oz|US fluid ounce|US fluid ounces
bbl oilbbl|bbl|barrel|barrels
usbu|US bsh|US bushel|US bushels
kg|kg|kilogram|kilograms
g|g|gram|grams
mg|mg|milligram|milligrams
lb lbs pound|lb|pound|pounds
oz|oz|ounce|ounces
ozt|ozt|troy ounce|troy ounces
st stone|st|stone|stone
t tonne MT|t|tonne|tonnes
ST|short tons|short ton|short tons
LT|long tons|long ton|long tons
cwt|cwt|hundredweight|hundredweight
C °C degC|°C|°C|°C
F °F degF|°F|°F|°F
K|K|kelvin|kelvins
km/h kmh kmph kph|km/h|kilometre per hour|kilometres per hour
mph mi/h|mph|mile per hour|miles per hour
kn knot knots|kn|knot|knots
m/s|m/s|metre per second|metres per second
km/s|km/s|kilometre per second|kilometres per second
ft/s|ft/s|foot per second|feet per second
ft/min|ft/min|foot per minute|feet per minute
m3/s|m3/s|cubic metre per second|cubic metres per second
cuft/s ft3/s|cu ft/s|cubic foot per second|cubic feet per second
/km2 PD/km2|/km2|person per square kilometre|people per square kilometre
/sqmi PD/sqmi /mi2|/sq mi|person per square mile|people per square mile
g/cm3|g/cm3|gram per cubic centimetre|grams per cubic centimetre
kg/m3|kg/m3|kilogram per cubic metre|kilograms per cubic metre
mpgus mpg|mpg|mile per gallon|miles per gallon
W|W|watt|watts
kW|kW|kilowatt|kilowatts
MW|MW|megawatt|megawatts
hp bhp|hp|horsepower|horsepower
shp|shp|shaft horsepower|shaft horsepower
PS|PS|metric horsepower|metric horsepower
V|V|volt|volts
J|J|joule|joules
kJ|kJ|kilojoule|kilojoules
MJ|MJ|megajoule|megajoules
cal|cal|calorie|calories
kcal|kcal|kilocalorie|kilocalories
kWh|kWh|kilowatt-hour|kilowatt-hours
N|N|newton|newtons
kN|kN|kilonewton|kilonewtons
lbf|lbf|pound-force|pounds-force
Nm|Nm|newton-metre|newton-metres
lbft lb.ft ftlb|lb-ft|pound-foot|pound-feet
Pa|Pa|pascal|pascals
hPa|hPa|hectopascal|hectopascals
kPa|kPa|kilopascal|kilopascals
MPa|MPa|megapascal|megapascals
GPa|GPa|gigapascal|gigapascals
bar|bar|bar|bars
mbar|mbar|millibar|millibars
atm|atm|standard atmosphere|standard atmospheres
psi|psi|pound per square inch|pounds per square inch
inHg|inHg|inch of mercury|inches of mercury
mmHg|mmHg|millimetre of mercury|millimetres of mercury
Hz|Hz|hertz|hertz
kHz|kHz|kilohertz|kilohertz
MHz|MHz|megahertz|megahertz
"""
UNITS: Dict[str, Tuple[str, str, str]] = {
    code: (symbol, singular, plural)
    for codes, symbol, singular, plural in (
        row.split("|") for row in _UNIT_TABLE.strip().split("\n"))
    for code in codes.split()
}
# Texts between two values of {{convert}}: "10|to|20|km". Wikis that are not in
# English have a dash for words.
RANGE_WORDS = {
    "-": "–", "–": "–", "to": " to ", "to(-)": " to ", "and": " and ",
    "and(-)": " and ", "or": " or ", "by": " by ", "x": " by ", "×": " × ",
    "xx": " × ", "*": " × ", "+": " + ", "±": " ± ", "+/-": " ± ", ",": ", ",
    "by(x)": " by ", "–to": " to ", "to about": " to about ",
}
# English names of languages, for {{langx|xx|text}}.
_LANGUAGE_TABLE = """
af Afrikaans, als Alemannic German, am Amharic, an Aragonese, ang Old English,
ar Arabic, arc Aramaic, ast Asturian, az Azerbaijani, be Belarusian, ber Berber,
bg Bulgarian, bn Bengali, bo Tibetan, br Breton, bs Bosnian, ca Catalan,
co Corsican, cs Czech, cy Welsh, da Danish, de German, el Greek, en English,
eo Esperanto, es Spanish, et Estonian, eu Basque, fa Persian, fi Finnish,
fo Faroese, fr French, fro Old French, fy West Frisian, ga Irish,
gd Scottish Gaelic, gl Galician, grc Ancient Greek, gu Gujarati, gv Manx,
haw Hawaiian, he Hebrew, hi Hindi, hr Croatian, hu Hungarian, hy Armenian,
id Indonesian, is Icelandic, it Italian, ja Japanese, jv Javanese, ka Georgian,
kk Kazakh, km Khmer, kn Kannada, ko Korean, ku Kurdish, kw Cornish, ky Kyrgyz,
la Latin, lb Luxembourgish, lo Lao, lt Lithuanian, lv Latvian, mi Māori,
mk Macedonian, ml Malayalam, mn Mongolian, mr Marathi, ms Malay, mt Maltese,
my Burmese, nah Nahuatl, nds Low German, ne Nepali, nl Dutch, no Norwegian,
nb Norwegian Bokmål, nn Norwegian Nynorsk, non Old Norse, oc Occitan,
os Ossetian, pa Punjabi, pl Polish, ps Pashto, pt Portuguese, qu Quechua,
ro Romanian, rm Romansh, ru Russian, rus Russian, sa Sanskrit, sc Sardinian,
sco Scots, sh Serbo-Croatian, si Sinhala, sk Slovak, sl Slovene, so Somali,
sq Albanian, sr Serbian, sv Swedish, sw Swahili, syr Syriac, ta Tamil,
te Telugu, tg Tajik, th Thai, tk Turkmen, tl Tagalog, tr Turkish, tt Tatar,
uk Ukrainian, ur Urdu, uz Uzbek, vi Vietnamese, vls West Flemish, yi Yiddish,
zh Chinese, zu Zulu
"""
LANGUAGE_NAMES: Mapping[str, str] = {
    code: name for code, _, name in (
        entry.partition(" ") for entry in
        " ".join(_LANGUAGE_TABLE.split()).split(", "))
}
# The signs of {{currency|12|USD}}.
CURRENCIES = {
    "USD": "US$", "AUD": "A$", "CAD": "C$", "NZD": "NZ$", "HKD": "HK$",
    "SGD": "S$", "GBP": "£", "EUR": "€", "JPY": "¥", "CNY": "CN¥", "INR": "₹",
    "KRW": "₩", "RUB": "₽", "PHP": "₱", "NGN": "₦", "BRL": "R$", "ILS": "₪",
    "TRY": "₺", "UAH": "₴", "VND": "₫", "THB": "฿", "ZAR": "R", "CHF": "CHF ",
    "SEK": "kr ", "NOK": "kr ", "DKK": "kr ", "PLN": "zł ", "MXN": "Mex$",
    "$": "$", "£": "£", "€": "€", "¥": "¥",
}
