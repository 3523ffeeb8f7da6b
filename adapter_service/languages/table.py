"""The languages that this service knows by name: one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """`tag` is the shortest BCP-47 tag, `native` the name in the language itself, `script` ISO 15924."""

    tag: str
    name: str
    native: str
    script: str
    region: str

    @property
    def lang_tag(self) -> str:
        """With script and region, as a speech engine wants it: `hi-Deva-IN`."""
        return f"{self.tag.split('-')[0]}-{self.script}-{self.region}"


TABLE = (
    # The ten of the shipped corpus
    Language("hi", "Hindi", "हिन्दी", "Deva", "IN"),
    Language("bn", "Bengali", "বাংলা", "Beng", "IN"),
    Language("ta", "Tamil", "தமிழ்", "Taml", "IN"),
    Language("te", "Telugu", "తెలుగు", "Telu", "IN"),
    Language("gu", "Gujarati", "ગુજરાતી", "Gujr", "IN"),
    Language("mr", "Marathi", "मराठी", "Deva", "IN"),
    Language("ur", "Urdu", "اردو", "Arab", "IN"),
    Language("pa", "Punjabi", "ਪੰਜਾਬੀ", "Guru", "IN"),
    Language("kn", "Kannada", "ಕನ್ನಡ", "Knda", "IN"),
    Language("ml", "Malayalam", "മലയാളം", "Mlym", "IN"),
    # Other languages of South Asia
    Language("as", "Assamese", "অসমীয়া", "Beng", "IN"),
    Language("or", "Odia", "ଓଡ଼ିଆ", "Orya", "IN"),
    Language("ne", "Nepali", "नेपाली", "Deva", "NP"),
    Language("sa", "Sanskrit", "संस्कृतम्", "Deva", "IN"),
    Language("mai", "Maithili", "मैथिली", "Deva", "IN"),
    Language("bho", "Bhojpuri", "भोजपुरी", "Deva", "IN"),
    Language("gom", "Konkani", "कोंकणी", "Deva", "IN"),
    Language("doi", "Dogri", "डोगरी", "Deva", "IN"),
    Language("brx", "Bodo", "बर'", "Deva", "IN"),
    Language("ks", "Kashmiri", "کٲشُر", "Arab", "IN"),
    Language("sd", "Sindhi", "سنڌي", "Arab", "PK"),
    Language("sat", "Santali", "ᱥᱟᱱᱛᱟᱲᱤ", "Olck", "IN"),
    Language("mni", "Manipuri", "ꯃꯩꯇꯩꯂꯣꯟ", "Mtei", "IN"),
    Language("si", "Sinhala", "සිංහල", "Sinh", "LK"),
    Language("dv", "Divehi", "ދިވެހި", "Thaa", "MV"),
    # Europe
    Language("en", "English", "English", "Latn", "US"),
    Language("de", "German", "Deutsch", "Latn", "DE"),
    Language("fr", "French", "français", "Latn", "FR"),
    Language("es", "Spanish", "español", "Latn", "ES"),
    Language("pt", "Portuguese", "português", "Latn", "PT"),
    Language("it", "Italian", "italiano", "Latn", "IT"),
    Language("nl", "Dutch", "Nederlands", "Latn", "NL"),
    Language("ca", "Catalan", "català", "Latn", "ES"),
    Language("gl", "Galician", "galego", "Latn", "ES"),
    Language("eu", "Basque", "euskara", "Latn", "ES"),
    Language("ga", "Irish", "Gaeilge", "Latn", "IE"),
    Language("cy", "Welsh", "Cymraeg", "Latn", "GB"),
    Language("da", "Danish", "dansk", "Latn", "DK"),
    Language("sv", "Swedish", "svenska", "Latn", "SE"),
    Language("no", "Norwegian", "norsk", "Latn", "NO"),
    Language("is", "Icelandic", "íslenska", "Latn", "IS"),
    Language("fi", "Finnish", "suomi", "Latn", "FI"),
    Language("et", "Estonian", "eesti", "Latn", "EE"),
    Language("lv", "Latvian", "latviešu", "Latn", "LV"),
    Language("lt", "Lithuanian", "lietuvių", "Latn", "LT"),
    Language("pl", "Polish", "polski", "Latn", "PL"),
    Language("cs", "Czech", "čeština", "Latn", "CZ"),
    Language("sk", "Slovak", "slovenčina", "Latn", "SK"),
    Language("sl", "Slovenian", "slovenščina", "Latn", "SI"),
    Language("hr", "Croatian", "hrvatski", "Latn", "HR"),
    Language("hu", "Hungarian", "magyar", "Latn", "HU"),
    Language("ro", "Romanian", "română", "Latn", "RO"),
    Language("sq", "Albanian", "shqip", "Latn", "AL"),
    Language("mt", "Maltese", "Malti", "Latn", "MT"),
    Language("el", "Greek", "Ελληνικά", "Grek", "GR"),
    Language("ru", "Russian", "русский", "Cyrl", "RU"),
    Language("uk", "Ukrainian", "українська", "Cyrl", "UA"),
    Language("be", "Belarusian", "беларуская", "Cyrl", "BY"),
    Language("bg", "Bulgarian", "български", "Cyrl", "BG"),
    Language("mk", "Macedonian", "македонски", "Cyrl", "MK"),
    Language("sr", "Serbian", "српски", "Cyrl", "RS"),
    # The Caucasus, West and Central Asia
    Language("hy", "Armenian", "հայերեն", "Armn", "AM"),
    Language("ka", "Georgian", "ქართული", "Geor", "GE"),
    Language("tr", "Turkish", "Türkçe", "Latn", "TR"),
    Language("az", "Azerbaijani", "azərbaycan", "Latn", "AZ"),
    Language("kk", "Kazakh", "қазақ тілі", "Cyrl", "KZ"),
    Language("ky", "Kyrgyz", "кыргызча", "Cyrl", "KG"),
    Language("uz", "Uzbek", "o‘zbek", "Latn", "UZ"),
    Language("tg", "Tajik", "тоҷикӣ", "Cyrl", "TJ"),
    Language("mn", "Mongolian", "монгол", "Cyrl", "MN"),
    Language("ar", "Arabic", "العربية", "Arab", "EG"),
    Language("fa", "Persian", "فارسی", "Arab", "IR"),
    Language("ps", "Pashto", "پښتو", "Arab", "AF"),
    Language("ckb", "Central Kurdish", "کوردیی ناوەندی", "Arab", "IQ"),
    Language("ug", "Uyghur", "ئۇيغۇرچە", "Arab", "CN"),
    Language("he", "Hebrew", "עברית", "Hebr", "IL"),
    Language("yi", "Yiddish", "ייִדיש", "Hebr", "UA"),
    # East and South-East Asia
    Language("zh", "Chinese", "中文", "Hans", "CN"),
    Language("zh-Hant", "Traditional Chinese", "繁體中文", "Hant", "TW"),
    Language("ja", "Japanese", "日本語", "Jpan", "JP"),
    Language("ko", "Korean", "한국어", "Kore", "KR"),
    Language("vi", "Vietnamese", "Tiếng Việt", "Latn", "VN"),
    Language("id", "Indonesian", "Bahasa Indonesia", "Latn", "ID"),
    Language("ms", "Malay", "Bahasa Melayu", "Latn", "MY"),
    Language("jv", "Javanese", "Jawa", "Latn", "ID"),
    Language("tl", "Filipino", "Filipino", "Latn", "PH"),
    Language("th", "Thai", "ไทย", "Thai", "TH"),
    Language("lo", "Lao", "ລາວ", "Laoo", "LA"),
    Language("km", "Khmer", "ខ្មែរ", "Khmr", "KH"),
    Language("my", "Burmese", "မြန်မာ", "Mymr", "MM"),
    Language("bo", "Tibetan", "བོད་སྐད་", "Tibt", "CN"),
    # Africa
    Language("sw", "Swahili", "Kiswahili", "Latn", "KE"),
    Language("af", "Afrikaans", "Afrikaans", "Latn", "ZA"),
    Language("yo", "Yoruba", "Yorùbá", "Latn", "NG"),
    Language("ig", "Igbo", "Igbo", "Latn", "NG"),
    Language("ha", "Hausa", "Hausa", "Latn", "NG"),
    Language("zu", "Zulu", "isiZulu", "Latn", "ZA"),
    Language("xh", "Xhosa", "isiXhosa", "Latn", "ZA"),
    Language("so", "Somali", "Soomaali", "Latn", "SO"),
    Language("am", "Amharic", "አማርኛ", "Ethi", "ET"),
    Language("ti", "Tigrinya", "ትግርኛ", "Ethi", "ER"),
)
