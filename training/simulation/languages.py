"""Sentences of the simulated traffic that are not plain English. Only data, used by simulated_prompts.py.

`{slot}` stands for a draw from SLOTS of simulated_vocabulary.py (or for a number).
"""

from __future__ import annotations

# What a text to translate is made of, by kind: (difficulty in [0, 1], sentences to draw from).
ENGLISH_SOURCES: dict[str, tuple[float, tuple[str, ...]]] = {
    "plain": (
        0.10,
        (
            "Good morning, the shop in {city} opens at nine.",
            "{person} will call you back in {month}.",
            "Please bring your passport and two photos.",
            "The train to {city} leaves from platform {n1}.",
            "Your {item} is ready for collection.",
            "Thank you for your patience.",
            "The meeting starts at {n1} o'clock.",
            "We are closed on Sunday.",
            "Lunch costs {money} per person.",
            "Where is the nearest pharmacy?",
        ),
    ),
    "technical": (
        0.34,
        (
            "Tighten the valve to {n2} Nm before starting the pump.",
            "Rotate the certificate every {n2} days.",
            "The {item} enters safe mode when the sensor reads above {n2} degrees.",
            "Flash the firmware with the jumper closed, then power-cycle the board.",
            "Torque, backlash and runout must be logged for each spindle.",
            "The gateway drops packets whose checksum does not match the header.",
        ),
    ),
    "marketing": (
        0.48,
        (
            "Sleep on it, literally: the mattress that {city} swears by.",
            "Small price, big grin.",
            "{company} puts the fun back into fundamentals.",
            "Your {item} called. It wants a holiday.",
            "Less faff, more coffee.",
            "We do the heavy lifting so that you can take it easy.",
        ),
    ),
    "idiom": (
        0.66,
        (
            "He let the cat out of the bag before {person} could bat an eyelid.",
            "It is not my cup of tea, to be frank.",
            "She bit off more than she could chew and is now up the creek.",
            "That ship has sailed, so let us cut to the chase.",
            "They threw the book at him, and he took it on the chin.",
            "It cost an arm and a leg, but who is counting?",
            "Between you and me, the deal fell through the cracks.",
        ),
    ),
    "legal": (
        0.80,
        (
            "Notwithstanding clause {n1}, the indemnifying party shall hold harmless {company} from any claim arising "
            "hereunder.",
            "The lessee waives any right of set-off, save in so far as mandatory law provides otherwise.",
            "Time is of the essence, and any forbearance shall not be construed as a waiver of the rights herein.",
            "Liability is several and not joint, and is capped at {money} in the aggregate, gross negligence excepted.",
            "The assignor warrants good and marketable title, free of liens, as of the date first written above.",
        ),
    ),
    "wordplay": (
        0.95,
        (
            "Time flies like an arrow; fruit flies like a {item}: keep the pun and the metre.",
            "The tide untied the tidy knots that {person} had tied in time.",
            "A bard barred from the bar bore his boredom barely, and boorishly.",
            "She sells no shells, and shall not: so sure the shore, so shorn the sell.",
        ),
    ),
}

# How much harder a target language makes a translation.
TARGETS: dict[str, float] = {
    "French": 0.0,
    "German": 0.0,
    "Spanish": 0.0,
    "Portuguese": 0.0,
    "Italian": 0.0,
    "Dutch": 0.02,
    "English": 0.0,
    "Polish": 0.05,
    "Russian": 0.05,
    "Japanese": 0.10,
    "Arabic": 0.12,
    "Hindi": 0.12,
    "Korean": 0.10,
    "Icelandic": 0.22,
    "Swahili": 0.22,
    "Yoruba": 0.30,
    "Khmer": 0.30,
}

TRANSLATION_ASKS: tuple[str, ...] = (
    "Translate into {target}: ",
    "Translate to {target}:\n",
    "How do you say this in {target}? ",
    "{target} please: ",
    "I need the following in {target}.\n\n",
    "Put this into natural {target}:\n",
    "Render in {target}: ",
)

# What a customer writes, per language: (difficulty, sentences), easiest first. Also sources to translate.
CUSTOMER_SENTENCES: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "German": (
        (
            0.05,
            (
                "Wo finde ich meine Rechnung?",
                "Wie kann ich mein Passwort zurücksetzen?",
                "Liefern Sie auch nach {city}?",
            ),
        ),
        (
            0.30,
            (
                "Mein Paket mit der Nummer {n3}{n3} ist nach {n2} Tagen noch nicht da.",
                "Das Gerät ist nach {n2} Tagen kaputtgegangen, ich möchte Ersatz.",
            ),
        ),
        (
            0.60,
            (
                "Mir wurden {money} doppelt abgebucht, und nur ein Betrag wurde erstattet.",
                "Sie haben mein Abo gekündigt, buchen aber weiterhin {money} ab.",
            ),
        ),
        (
            0.88,
            (
                "Nach den bei Vertragsschluss geltenden Bedingungen steht mir ein Widerrufsrecht zu, Sie berufen sich "
                "jedoch "
                "auf Klausel {n1}.",
                "Die Rückbuchung meiner Bank hat Ihre Gutschrift über {money} überholt, jetzt schulde ich beides.",
            ),
        ),
    ),
    "French": (
        (
            0.05,
            ("Où puis-je trouver ma facture ?", "Comment réinitialiser mon mot de passe ?", "Livrez-vous à {city} ?"),
        ),
        (
            0.30,
            (
                "Mon colis numéro {n3}{n3} n'est toujours pas arrivé après {n2} jours.",
                "L'appareil est tombé en panne au bout de {n2} jours, je veux un échange.",
            ),
        ),
        (
            0.60,
            (
                "J'ai été débité deux fois de {money} et un seul montant a été remboursé.",
                "Vous avez résilié mon abonnement mais vous prélevez encore {money}.",
            ),
        ),
        (
            0.88,
            (
                "Les conditions en vigueur à la signature m'accordent un droit de rétractation, or vous invoquez la "
                "clause {n1}.",
                "Le rejet de prélèvement de ma banque a croisé votre avoir de {money}, et je dois désormais les deux.",
            ),
        ),
    ),
    "Spanish": (
        (0.05, ("¿Dónde encuentro mi factura?", "¿Cómo cambio mi contraseña?", "¿Hacen envíos a {city}?")),
        (
            0.30,
            (
                "Mi pedido {n3}{n3} no ha llegado después de {n2} días.",
                "El aparato se rompió a los {n2} días y quiero un reemplazo.",
            ),
        ),
        (
            0.60,
            (
                "Me cobraron {money} dos veces y solo devolvieron un importe.",
                "Cancelaron mi suscripción pero siguen cobrando {money}.",
            ),
        ),
        (
            0.88,
            (
                "Las condiciones vigentes cuando firmé me reconocen el desistimiento, pero ustedes alegan la cláusula "
                "{n1}.",
                "El contracargo de mi banco se cruzó con su abono de {money} y ahora me reclaman ambos.",
            ),
        ),
    ),
    "Portuguese": (
        (0.05, ("Onde encontro a minha fatura?", "Como altero a minha senha?", "Vocês entregam em {city}?")),
        (
            0.30,
            (
                "O meu pedido {n3}{n3} ainda não chegou depois de {n2} dias.",
                "O aparelho avariou ao fim de {n2} dias e quero uma troca.",
            ),
        ),
        (
            0.60,
            (
                "Cobraram-me {money} duas vezes e só devolveram um valor.",
                "Cancelaram a minha assinatura mas continuam a cobrar {money}.",
            ),
        ),
        (
            0.88,
            (
                "As condições em vigor quando assinei dão-me direito de arrependimento, mas invocam a cláusula {n1}.",
                "O estorno do meu banco cruzou-se com o vosso crédito de {money} e agora devo os dois.",
            ),
        ),
    ),
    "Russian": (
        (0.05, ("Где найти мой счёт?", "Как сбросить пароль?", "Вы доставляете в {city}?")),
        (0.30, ("Мой заказ {n3}{n3} не пришёл за {n2} дней.", "Прибор сломался через {n2} дней, прошу замену.")),
        (
            0.60,
            (
                "С меня дважды списали {money}, а вернули только один раз.",
                "Вы отменили подписку, но продолжаете списывать {money}.",
            ),
        ),
        (
            0.88,
            (
                "По условиям, действовавшим при подписании, я вправе отказаться от договора, а вы ссылаетесь на пункт "
                "{n1}.",
                "Возвратный платёж банка пересёкся с вашим возмещением {money}, и теперь с меня требуют обе суммы.",
            ),
        ),
    ),
    "Japanese": (
        (
            0.05,
            (
                "請求書はどこで確認できますか。",
                "パスワードを再設定するにはどうすればよいですか。",
                "{city}にも配送していますか。",
            ),
        ),
        (0.30, ("注文番号{n3}{n3}の商品が{n2}日たっても届きません。", "{n2}日で故障したので、交換をお願いします。")),
        (
            0.60,
            (
                "{money}が二重に請求され、片方しか返金されていません。",
                "解約したはずなのに、毎月{money}が引き落とされています。",
            ),
        ),
        (
            0.88,
            (
                "契約時の規約では撤回が認められているのに、御社は第{n1}条を根拠に拒否しています。",
                "銀行の異議申し立てと御社の返金{money}が行き違い、両方を請求されています。",
            ),
        ),
    ),
    "Arabic": (
        (0.05, ("أين أجد فاتورتي؟", "كيف أعيد تعيين كلمة المرور؟", "هل توصلون إلى {city}؟")),
        (0.30, ("لم يصل طلبي رقم {n3}{n3} بعد {n2} يوماً.", "تعطل الجهاز بعد {n2} يوماً وأريد استبداله.")),
        (0.60, ("تم خصم {money} مرتين ولم يُسترد سوى مبلغ واحد.", "ألغيتم اشتراكي وما زلتم تخصمون {money}.")),
        (
            0.88,
            (
                "الشروط السارية عند التوقيع تمنحني حق العدول، لكنكم تستندون إلى البند {n1}.",
                "تقاطع اعتراض البنك مع الرصيد الذي أعدتموه وقدره {money} وأصبحت مطالباً بالمبلغين.",
            ),
        ),
    ),
    "Hindi": (
        (0.05, ("मुझे अपना बिल कहाँ मिलेगा?", "पासवर्ड कैसे बदलूँ?", "क्या आप {city} में डिलीवरी करते हैं?")),
        (0.30, ("मेरा ऑर्डर {n3}{n3} {n2} दिन बाद भी नहीं आया।", "उपकरण {n2} दिन में खराब हो गया, मुझे बदलाव चाहिए।")),
        (0.60, ("मुझसे {money} दो बार काटे गए और केवल एक बार लौटाए गए।", "सदस्यता रद्द होने पर भी {money} कट रहे हैं।")),
        (
            0.88,
            (
                "हस्ताक्षर के समय की शर्तें मुझे अनुबंध वापस लेने का अधिकार देती हैं, पर आप धारा {n1} का हवाला देते हैं।",
                "बैंक की वापसी और आपके {money} के क्रेडिट के टकराने से अब दोनों रकम मुझसे माँगी जा रही हैं।",
            ),
        ),
    ),
}

SYSTEM_MESSAGES: dict[str, tuple[str, ...]] = {
    "support-triage": (
        "You are the support assistant of {company}. Classify the ticket and draft a reply.",
        "You triage tickets for {company}. Be brief and polite; never promise refunds.",
    ),
    "sql": ("You write PostgreSQL 16.", "You are an analyst. Answer with one SQL statement and nothing else."),
    "code-review": ("You are a careful reviewer. Point at lines, not at people.", "Review only what changed."),
    "json-extraction": ("Answer with JSON only.", "You extract structured data. Unknown values are null."),
    "summarising": ("You are an editor at {company}.", "Summaries must stand on their own."),
    "maths": ("You are a maths tutor.", "Give the final answer on the last line."),
    "translation": ("You are a professional translator.", "Translate faithfully; keep names as they are."),
    "creative-writing": ("You are a writer with a {mood} voice.", "Avoid clichés."),
}

ASSISTANT_REPLIES: dict[str, tuple[str, ...]] = {
    "support-triage": (
        "I am sorry about the trouble with your {item}. I have checked the account and opened a case.",
        "Thank you for the details. You will find it under Account, then Billing.",
        "I have passed this on to the {plan} team; they answer within {n1} working days.",
    ),
    "code-review": (
        "The change looks reasonable. In `{verb}_{noun}`, handle the empty case before the loop.",
        "Line {n2}: the result of `{verb}` is ignored. Otherwise fine.",
        "I would extract the {noun} handling into its own function and test it on its own.",
    ),
    "creative-writing": (
        "Here is a first draft: the {noun} lay where {person} had left it, and {city} went on without it.",
        "In {city}, they say, nobody asks about {topic} twice. {person} asked.",
        "It begins with {topic}, and with {person}, who did not believe in beginnings.",
    ),
}
