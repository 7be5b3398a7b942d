 J€ßI™D E—Ärì=DÒÆwD>Û9Äz¼gÅYšØC°ÝKDq:žÄç+FÃ¤ñÞÄ™ËE·hÓÂôwÃBŒJCj{“D&ÿªBAòD?±DD!!
Å][èDð¬CáàÃ¹#–Ä+1EóbEU7«Bç?çÄ‚ÀCCIºÄH‚CDæ°ßDßI™D E—Ärì=DÒÆwD>Û9Äz¼gÅYšØC°ÝKDq:žÄç+FÃ¤ñÞÄ™ËE·hÓÂôwÃBŒJCj{“D&ÿªBAòD?±DD!!
Å][èDð¬CáàÃ¹#–Ä+1EóbEU7«Bç?çÄ‚ÀCCIºÄH‚CDæ°ßDßI™D E—Ärì=DÒÆwD>Û9Äz¼gÅYšØC°ÝKDq:žÄç+FÃ¤ñÞÄ™ËE·hÓÂôwÃBŒJCj{“D&ÿªBAòD?±DD!!
Å][èDð¬CáàÃ¹#–Ä+1EóbEU7«Bç?çÄ‚ÀCCIºÄH‚CDæ°ßDßI™D E—Ärì=DÒÆwD>Û9Äz¼gÅYšØC°ÝKDq:žÄç+FÃ¤ñÞÄ™ËE·hÓÂôwÃBŒJCj{“D&ÿªBAòD?±DD!!
Å][èDð¬CáàÃ¹#–Ä+1EóbEU7«Bç?çÄ‚ÀCCIºÄH‚CDæ°ßD